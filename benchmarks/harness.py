"""What the benchmarks share: rivals measured in turns, findings judged against targets, a result on disk.

A speed is only ever reported as the ratio of rivals that ran in turns in one process, so that the machine's
speed and its drift cancel out. Targets are judged and printed, never asserted.
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from time import perf_counter_ns

import msgspec

from edgemtl.bench.device import device_facts
from edgemtl.core.files import json_bytes, replacing
from edgemtl.core.report import timestamp

PACKAGES = ("edgemtl", "torch", "numpy", "onnx", "onnxruntime", "typer", "rich")


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A figure and, where it has a target, whether that is met. ``quartiles`` show how it spread by round."""

    name: str
    value: float
    quartiles: tuple[float, float] | None = None
    at_least: float | None = None
    at_most: float | None = None
    met: bool | None = None


class Contest(msgspec.Struct, frozen=True):
    """Milliseconds of one call of each rival, in each round."""

    name: str
    durations_ms: dict[str, list[float]]

    @property
    def medians_ms(self) -> dict[str, float]:
        """The median of each rival over the rounds."""
        return {rival: statistics.median(values) for rival, values in self.durations_ms.items()}

    def ratio(
        self, rival: str, base: str, *, at_least: float | None = None, at_most: float | None = None
    ) -> Finding:
        """``rival`` over ``base``: the median and the quartiles of the ratios within a round.

        A machine that changes its speed from round to round moves them little.
        """
        values, bases = self.durations_ms[rival], self.durations_ms[base]
        ratios = [value / of for value, of in zip(values, bases, strict=True)]
        return judge(
            f"{self.name}: {rival} / {base}",
            statistics.median(ratios),
            by_round=ratios,
            at_least=at_least,
            at_most=at_most,
        )


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a benchmark found. ``raw`` holds what the findings were made from, with its unit in every name."""

    settings: dict[str, object]
    findings: list[Finding]
    raw: dict[str, object]


def interleave(
    name: str, rivals: Mapping[str, Callable[[], object]], *, rounds: int, calls: int = 1
) -> Contest:
    """Call every rival once to warm up; then give each a turn in every round, in an order shuffled anew.

    A turn is a number of ``calls``, and its time their mean: where a call is short, several in a row see the
    caches as they are when nothing else runs.
    """
    for run in rivals.values():
        run()
    order, shuffle = list(rivals), random.Random(0).shuffle
    durations_ms: dict[str, list[float]] = {rival: [] for rival in rivals}
    for _ in range(rounds):
        shuffle(order)
        for rival in order:
            run = rivals[rival]
            start = perf_counter_ns()
            for _ in range(calls):
                run()
            durations_ms[rival].append((perf_counter_ns() - start) / 1e6 / calls)
    return Contest(name, durations_ms)


def judge(
    name: str,
    value: float,
    *,
    by_round: Sequence[float] = (),
    at_least: float | None = None,
    at_most: float | None = None,
) -> Finding:
    """A figure against its target: at least, at most, or between two bounds."""
    quartiles = statistics.quantiles(by_round, n=4, method="inclusive") if len(by_round) > 1 else None
    bounded = at_least is not None or at_most is not None
    met = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
    return Finding(
        name=name,
        value=value,
        quartiles=(quartiles[0], quartiles[2]) if quartiles else None,
        at_least=at_least,
        at_most=at_most,
        met=met if bounded else None,
    )


def main(description: str | None, measure: Callable[[bool], Outcome]) -> None:
    """A benchmark's command line: run ``measure(quick)`` and conclude."""
    options = arguments(description).parse_args()
    conclude(measure(options.quick), options)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The arguments of every benchmark."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/NAME.json")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds: does it work?")
    return parser


def conclude(outcome: Outcome, options: argparse.Namespace) -> None:
    """Print what a benchmark found and write it to a file.

    A quick run is written only where ``--out`` says so: its figures are not those of the full sizes.
    """
    script = Path(sys.argv[0])
    for finding in outcome.findings:
        print(_line(finding))
    if options.quick:
        print("quick: the targets are those of the full sizes")
    out = options.out or (None if options.quick else script.parent / "results" / f"{script.stem}.json")
    if out is not None:
        document = {
            "benchmark": script.stem,
            "command": shlex.join(["python", *sys.argv]),
            "created": timestamp(),
            "device": device_facts(),
            "environment": {name: value for name, value in os.environ.items() if name.startswith("OMP_")},
            "versions": {name: metadata.version(name) for name in PACKAGES},
            **msgspec.to_builtins(outcome),
        }
        with replacing(out) as draft:
            draft.write_bytes(json_bytes(document))
        print(f"written to {out}")


def _line(finding: Finding) -> str:
    quartiles = "({:.3g} .. {:.3g})".format(*finding.quartiles) if finding.quartiles else ""
    bounds = [("at least", finding.at_least), ("at most", finding.at_most)]
    target = ", ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)
    verdict = {True: "met", False: "FAILS", None: ""}[finding.met]
    return f"{finding.name:<60} {finding.value:>8.4g} {quartiles:<18} {target:<22} {verdict}".rstrip()
