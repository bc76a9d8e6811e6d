"""Rates: which tasks to compute on which frames of a video, so that the worst frame is as cheap as can be."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from functools import cache
from math import gcd, inf, lcm

from edgemtl.core.errors import UsageError, nearest

LONGEST_CYCLE = 240  # frames; more would take long to search, and no board needs it
LONGEST_SEARCH = 1_000_000  # frames priced: about a second, and more than four tasks at 1/12 need

Cycle = tuple[frozenset[str], ...]


def parse_rates(texts: Iterable[str], tasks: Sequence[str]) -> dict[str, Fraction]:
    """Read rates as a command line gives them, ``depth=1/3``, several of them with commas between.

    A task that nobody names has the rate 1.

    Raises:
        UsageError: a text is not TASK=N/M, or names a task twice or one that is not there.
    """
    rates: dict[str, Fraction] = {}
    for text in (part for given in texts for part in re.split(r"[,\s]+", given) if part):
        task, _, number = text.partition("=")
        where = f"--rates {text}"
        # No decimals: a float such as 1e-999999 would take forever to become a fraction.
        if not re.fullmatch(r"\d{1,4}(/0*[1-9]\d{0,3})?", number):
            raise UsageError(where, expected="TASK=N/M", found=f"`{number}`", fix="Try depth=1/3.")
        if task not in tasks:
            raise UsageError(
                where, expected="a task of the bundle", found=f"`{task}`", fix=nearest(task, tasks)
            )
        if task in rates:
            raise UsageError(where, expected="a task once", found="it twice", fix="Leave one out.")
        rates[task] = Fraction(number)
    return {task: rates.get(task, Fraction(1)) for task in tasks}


def stagger(rates: Mapping[str, Fraction], cost: Callable[[frozenset[str]], float]) -> Cycle:
    """The tasks to compute on each frame of a cycle that repeats.

    A task at rate p/q with phase s is computed on frame k if (k + s) p mod q < p: p times in any q frames,
    evenly. The phases are those under which the largest ``cost`` of a frame is least; ``cost`` takes the
    tasks of a frame, and never falls when one more joins. The search is exact; only where it would
    pass `LONGEST_SEARCH`, the best so far is taken.

    Raises:
        UsageError: a rate is not above 0 and at most 1, or all together have no common cycle of at most
            `LONGEST_CYCLE` frames.
    """
    for task, rate in rates.items():
        if not 0 < rate <= 1:
            raise UsageError(
                f"rate of {task}", expected="above 0 and at most 1", found=str(rate), fix="Try 1/3."
            )
    length = lcm(*(rate.denominator for rate in rates.values()))
    if length > LONGEST_CYCLE:
        raise UsageError(
            "--rates",
            expected=f"rates that repeat after at most {LONGEST_CYCLE} frames",
            found=f"{length}",
            fix="Choose denominators that divide one another, as 1/2 and 1/4.",
        )
    price = cache(cost)
    best, least, priced = (frozenset(rates),) * length, inf, 0

    def place(tasks: Sequence[str], frames: Cycle, repeats: int) -> None:
        """Give the first of ``tasks`` a phase; ``frames`` hold those before it, and repeat so early."""
        nonlocal best, least, priced
        if priced > LONGEST_SEARCH or max(map(price, frames)) >= least:
            return
        if not tasks:
            best, least = frames, max(map(price, frames))
            return
        rate = rates[tasks[0]]
        # Other phases are these again, seen from a later start: the frames so far look the same from there.
        phases = range(gcd(rate.denominator, repeats))
        priced += len(phases) * length
        choices = [_joined(frames, tasks[0], rate, phase) for phase in phases]
        choices.sort(key=lambda choice: (max(map(price, choice)), sum(map(price, choice))))
        for choice in choices:
            place(tasks[1:], choice, lcm(repeats, rate.denominator))

    dearest_first = sorted(rates, key=lambda task: price(frozenset([task])), reverse=True)
    place(dearest_first, (frozenset(),) * length, 1)
    return best


def _joined(frames: Cycle, task: str, rate: Fraction, phase: int) -> Cycle:
    """The frames, with a task on those that are its turn."""
    p, q = rate.as_integer_ratio()
    return tuple(
        tasks | {task} if (index + phase) * p % q < p else tasks for index, tasks in enumerate(frames)
    )
