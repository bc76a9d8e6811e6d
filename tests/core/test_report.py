"""Reports go through JSON unchanged; ``delta_m`` has a file of its own, test_delta_m.py."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edgemtl.core.report import FORMAT, BenchReport, Deviation, EvalReport, MetricInfo, VerifyReport

BENCH = msgspec.json.decode(
    (Path(__file__).parents[1] / "fixtures/bench_report.json").read_bytes(), type=BenchReport
)
EVALUATE = EvalReport(
    subject="runs/a",
    network="collapsed",
    data="nyuv2",
    split="val",
    images=654,
    created="2026-11-22T00:00:00+00:00",
    tasks={"depth": {"abs": 0.5}},
    metrics={"depth": (MetricInfo("abs", "m", False),)},
    baseline="runs/twins",
    delta_m=1.5,
    delta_m_tasks={"depth": 1.5},
)
VERIFY = VerifyReport(
    bundle="a",
    manifest_sha256="0" * 64,
    created="2026-11-22T00:00:00+00:00",
    runtime="fake",
    samples=2,
    atol=1e-5,
    rtol=1e-4,
    layouts={
        "merged": {
            "depth": Deviation(
                passed=True,
                max_abs=1e-7,
                mean_abs=1e-8,
                max_rel=1e-7,
                sample=1,
                channel=0,
                pixel=(3, 4),
                expected=0.5,
                found=0.5,
                atol=1e-5,
            )
        }
    },
    passed=True,
)
REPORTS = [BENCH, EVALUATE, VERIFY]


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: report.kind)
def test_json_keeps_everything(report: BenchReport | EvalReport | VerifyReport) -> None:
    assert msgspec.json.decode(msgspec.json.encode(report), type=type(report)) == report


def test_kinds_differ_and_formats_do_not() -> None:
    assert [report.kind for report in REPORTS] == ["bench", "evaluate", "verify"]
    assert {report.format for report in REPORTS} == {FORMAT}


def test_the_top_of_a_bench_report_is_its_layout() -> None:
    top = BENCH.layouts[str(BENCH.settings["layout"])]
    for name in top.__struct_fields__:
        assert getattr(BENCH, name) == getattr(top, name)
