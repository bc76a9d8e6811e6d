from __future__ import annotations

from fractions import Fraction
from itertools import pairwise, product
from math import lcm

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemtl.core.errors import UsageError
from edgemtl.runtime.schedule import parse_rates, stagger

TASKS = ("segmentation", "depth", "normals")
HEADS = dict(zip(TASKS, (7, 2, 3), strict=True))


def cost(tasks: frozenset[str]) -> int:
    """A trunk of 10, a branch of 4 that depth and normals share, and heads."""
    branch = 4 if tasks & {"depth", "normals"} else 0
    return (10 if tasks else 0) + branch + sum(HEADS[task] for task in tasks)


def fractions(largest: int) -> st.SearchStrategy[Fraction]:
    return st.integers(1, largest).flatmap(lambda q: st.integers(1, q).map(lambda p: Fraction(p, q)))


RATES = st.fixed_dictionaries(dict.fromkeys(TASKS, fractions(6)))


@given(RATES)
def test_the_calls_of_a_cycle_add_up_to_the_rates_exactly(rates: dict[str, Fraction]) -> None:
    cycle = stagger(rates, cost)
    assert len(cycle) == lcm(*(rate.denominator for rate in rates.values()))
    for task, rate in rates.items():
        assert Fraction(sum(task in frame for frame in cycle), len(cycle)) == rate


@given(RATES)
def test_a_task_comes_evenly(rates: dict[str, Fraction]) -> None:
    cycle = stagger(rates, cost)
    for task, rate in rates.items():
        turns = [index for index, frame in enumerate(cycle * 2) if task in frame]
        gaps = {after - before for before, after in pairwise(turns)}
        assert gaps <= {1 // rate, -(-1 // rate)}


@given(RATES)
def test_no_phases_give_a_cheaper_worst_frame(rates: dict[str, Fraction]) -> None:
    length = lcm(*(rate.denominator for rate in rates.values()))

    def worst(phases: tuple[int, ...]) -> int:
        shifted = list(zip(rates.items(), phases, strict=True))
        return max(
            cost(frozenset(t for (t, r), s in shifted if (k + s) * r.numerator % r.denominator < r.numerator))
            for k in range(length)
        )

    least = min(map(worst, product(*(range(rate.denominator) for rate in rates.values()))))
    assert max(map(cost, stagger(rates, cost))) == least


def test_a_search_that_would_take_too_long_still_gives_every_task_its_turns() -> None:
    rates = {str(index): Fraction(1, 240) for index in range(12)} | {"last": Fraction(5, 12)}
    cycle = stagger(rates, len)
    assert sum(map(len, cycle)) == sum(rates.values()) * len(cycle)


def test_rates_are_read_in_any_grouping_and_default_to_one() -> None:
    expected = {"segmentation": Fraction(1), "depth": Fraction(1, 3), "normals": Fraction(2, 5)}
    for texts in (["depth=1/3", "normals=2/5"], ["depth=1/3,normals=2/5"], ["normals=4/10 depth=1/3"]):
        assert parse_rates(texts, TASKS) == expected
    assert parse_rates([], TASKS) == dict.fromkeys(TASKS, 1)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("depth", "found ``"),
        ("depth=", "found ``"),
        ("depth=-1/2", "found `-1/2`"),
        ("depth=1/0", "found `1/0`"),
        ("depth=0.5", "found `0.5`"),
        ("depth=1e-999999999", "found `1e-999999999`"),
        ("dept=1/2", r"`dept`.*`depth`"),
        ("=1/2", "found ``"),
        ("depth=1,depth=1/2", "twice"),
    ],
)
def test_what_is_no_rate(text: str, found: str) -> None:
    with pytest.raises(UsageError, match=f"--rates .*{found}"):
        parse_rates([text], TASKS)


@pytest.mark.parametrize("rate", [Fraction(0), Fraction(3, 2), Fraction(-1, 2)])
def test_a_rate_out_of_range(rate: Fraction) -> None:
    with pytest.raises(UsageError, match=f"rate of depth: expected above 0 and at most 1, found {rate}"):
        stagger({"depth": rate}, cost)


def test_a_cycle_without_end_is_refused() -> None:
    with pytest.raises(UsageError, match="at most 240 frames, found 997"):
        stagger({"depth": Fraction(1, 997)}, cost)
