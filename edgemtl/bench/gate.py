"""Gates: limits on the figures of a report, so that a script fails when a network got slower or worse."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from edgemtl.bench.compare import require_alike
from edgemtl.bench.document import ON_DEVICE, Document, figures, higher_is_better
from edgemtl.core.errors import UsageError, nearest
from edgemtl.core.report import BenchReport, EvalReport, Verdict

Flag = Literal["--min", "--max", "--max-regress"]


class Gate(msgspec.Struct, frozen=True):
    """``limit`` bounds the figure at ``path``; with ``--max-regress`` it bounds how much worse than a
    baseline the figure may be, in percent of the baseline if ``percent``, else in the figure's own unit."""

    flag: Flag
    path: str
    limit: float
    percent: bool = False

    def __str__(self) -> str:
        return f"{self.flag} {self.path}={self.limit:g}{'%' if self.percent else ''}"


def parse_gates(
    *, minimum: Iterable[str] = (), maximum: Iterable[str] = (), max_regress: Iterable[str] = ()
) -> tuple[Gate, ...]:
    """Read gates as a command line gives them: ``latency_ms.p50=5%``, ``tasks.segmentation.miou=0.4``.

    Raises:
        UsageError: a gate is not PATH=NUMBER; only ``max_regress`` takes percents.
    """
    return (
        *(_parse("--min", text) for text in minimum),
        *(_parse("--max", text) for text in maximum),
        *(_parse("--max-regress", text) for text in max_regress),
    )


def check_gates(
    gates: Iterable[Gate], report: type[BenchReport] | type[EvalReport], *, baseline: Path | None = None
) -> None:
    """Refuse, before anything is measured, what ``judge`` would refuse of any such report.

    Raises:
        UsageError: a gate is about no part of the report, or of a baseline and the limit of a regression one
            is there without the other.
    """
    parts, flags = report.__struct_fields__, set()
    for gate in gates:
        flags.add(gate.flag)
        part = gate.path.partition(".")[0]
        if part not in parts:
            raise UsageError(
                str(gate), expected="a figure of the report", found=f"`{gate.path}`", fix=nearest(part, parts)
            )
    if baseline is None and "--max-regress" in flags:
        raise UsageError("--max-regress", expected="--baseline REPORT", found="none", fix="Name a report.")
    if baseline is not None and "--max-regress" not in flags:
        raise UsageError(
            "--baseline",
            expected="a --max-regress that counts from it",
            found="none",
            fix="Add one, as --max-regress latency_ms.p50=5%, or see both with `edgemtl compare`.",
        )


def judge(
    report: Document, gates: Iterable[Gate], *, baseline: Document | None = None, force: bool = False
) -> tuple[Verdict, ...]:
    """Judge every gate, in order. A figure that was not measured fails.

    Raises:
        UsageError: the report has no such figure (the nearest is offered); a regression lacks a baseline, or
            is about a figure of which nobody knows which way is better, or about one that was not measured
            like the baseline's (``force`` allows that).
    """
    found = figures(report)
    verdicts = []
    for gate in gates:
        value = _look_up(gate, found)
        if gate.flag == "--max-regress":
            verdicts.append(_judge_regression(gate, value, report, baseline, force=force))
        else:
            verdicts.append(_verdict(gate, value, gate.limit, at_least=gate.flag == "--min"))
    return tuple(verdicts)


def _judge_regression(
    gate: Gate, value: float | None, report: Document, baseline: Document | None, *, force: bool
) -> Verdict:
    if baseline is None:
        raise UsageError(str(gate), expected="--baseline REPORT", found="none", fix="Name a report.")
    higher = higher_is_better(report, gate.path)
    if higher is None:
        raise UsageError(
            str(gate),
            expected="a figure that can get worse: a metric or a cost",
            found=f"`{gate.path}`",
            fix="Use --min or --max.",
        )
    if report["kind"] != "bench" or ON_DEVICE & set(gate.path.split(".")):
        video = gate.path.startswith("video.")
        require_alike("the baseline", baseline, "the report", report, video=video, force=force)
    base = _look_up(gate, figures(baseline))
    if base is None:
        raise UsageError(
            f"baseline of {gate}", expected="a number", found="null", fix="Name a report that measured it."
        )
    allowed = abs(base) * gate.limit / 100 if gate.percent else gate.limit
    return _verdict(gate, value, base - allowed if higher else base + allowed, at_least=higher, baseline=base)


def _verdict(
    gate: Gate, value: float | None, limit: float, *, at_least: bool, baseline: float | None = None
) -> Verdict:
    passed = value is not None and (value >= limit if at_least else value <= limit)
    return Verdict(
        gate=str(gate),
        value=value,
        bound="at least" if at_least else "at most",
        limit=limit,
        baseline=baseline,
        passed=passed,
    )


def _look_up(gate: Gate, found: dict[str, float | None]) -> float | None:
    if gate.path in found:
        return found[gate.path]
    first = gate.path.partition(".")[0]
    # Of several hundred paths, offer those of the same part; a wrong part is compared with all.
    family = [path for path in found if path.partition(".")[0] == first]
    raise UsageError(
        str(gate),
        expected="a figure of the report",
        found=f"`{gate.path}`",
        fix=nearest(gate.path, family or found),
    )


def _parse(flag: Flag, text: str) -> Gate:
    path, _, number = text.partition("=")
    percent = flag == "--max-regress" and number.endswith("%")
    try:
        limit = float(number[:-1] if percent else number)
    except ValueError:
        limit = math.nan
    if not path or not math.isfinite(limit):
        raise UsageError(
            f"{flag} {text}",
            expected="PATH=NUMBER or PATH=PERCENT%" if flag == "--max-regress" else "PATH=NUMBER",
            found=f"`{text}`",
            fix=f"For example {flag} latency_ms.p50={'5%' if flag == '--max-regress' else '20'}.",
        )
    return Gate(flag, path, limit, percent)
