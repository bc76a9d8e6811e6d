from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemtl.bench.document import read_report
from edgemtl.bench.gate import Gate, judge, parse_gates
from edgemtl.core.errors import UsageError
from edgemtl.core.report import Verdict

BENCH = read_report(Path(__file__).parents[1] / "fixtures/bench_report.json")
numbers = st.floats(-1e6, 1e6)


def evaluated(miou: float | None, abs_m: float = 0.5, data: str = "nyuv2") -> dict[str, Any]:
    return {
        "kind": "evaluate",
        "format": 1,
        "data": data,
        "tasks": {"segmentation": {"miou": miou}, "depth": {"abs": abs_m}},
        "metrics": {
            "segmentation": [{"name": "miou", "unit": "1", "higher_is_better": True}],
            "depth": [{"name": "abs", "unit": "m", "higher_is_better": False}],
        },
    }


def one(report: dict[str, Any], gate: str, flag: str, baseline: dict[str, Any] | None = None) -> Verdict:
    (verdict,) = judge(report, parse_gates(**{flag: [gate]}), baseline=baseline)
    return verdict


@given(value=numbers, limit=numbers)
def test_min_and_max_are_the_comparison_they_name(value: float, limit: float) -> None:
    report, text = evaluated(value), f"tasks.segmentation.miou={limit!r}"
    assert one(report, text, "minimum").passed == (value >= limit)
    assert one(report, text, "maximum").passed == (value <= limit)


@given(base=st.floats(0.1, 1e3), percent=st.floats(0.1, 50))
def test_a_regression_counts_in_the_direction_that_is_worse(base: float, percent: float) -> None:
    just, over = percent * 0.99 / 100, percent * 1.01 / 100
    baseline = evaluated(base, base)
    text = f"={percent!r}%"
    for share, passed in (just, True), (over, False):
        higher = one(evaluated(base * (1 - share)), "tasks.segmentation.miou" + text, "max_regress", baseline)
        lower = one(evaluated(0, base * (1 + share)), "tasks.depth.abs" + text, "max_regress", baseline)
        assert (higher.passed, lower.passed) == (passed, passed)
        assert higher.baseline == lower.baseline == base


@given(base=st.floats(0.1, 1e3), limit=st.floats(0, 10))
def test_a_gain_never_fails(base: float, limit: float) -> None:
    better = evaluated(base * 2, base / 2)
    for path in "tasks.segmentation.miou", "tasks.depth.abs":
        assert one(better, f"{path}={limit!r}", "max_regress", evaluated(base, base)).passed


def test_a_report_passes_against_itself() -> None:
    gates = parse_gates(max_regress=["latency_ms.p50=0%", "images_per_s=0", "tasks.depth.rel=0%"])
    assert all(verdict.passed for verdict in judge(BENCH, gates, baseline=BENCH))


def test_a_verdict_tells_the_whole_story() -> None:
    verdict = one(evaluated(0.37), "tasks.segmentation.miou=5%", "max_regress", evaluated(0.4))
    assert verdict.gate == "--max-regress tasks.segmentation.miou=5%"
    assert (verdict.value, verdict.baseline, verdict.bound) == (0.37, 0.4, "at least")
    assert verdict.limit == pytest.approx(0.38)
    assert not verdict.passed


def test_every_gate_is_judged_in_order() -> None:
    gates = parse_gates(minimum=["size_mib=0", "tasks.segmentation.miou=0.9"], maximum=["macs=1e12"])
    assert [verdict.passed for verdict in judge(BENCH, gates)] == [True, False, True]


def test_what_was_not_measured_fails() -> None:
    assert not one(evaluated(None), "tasks.segmentation.miou=0", "minimum").passed
    assert not one(evaluated(None), "tasks.segmentation.miou=0", "maximum").passed
    assert not one(evaluated(None), "tasks.segmentation.miou=50%", "max_regress", evaluated(0.4)).passed


@pytest.mark.parametrize(
    ("path", "offered"),
    [
        ("latency_ms.p05", "Did you mean `latency_ms.p"),
        ("latncy_ms.p50", "Did you mean `latency_ms.p50`"),
        ("tasks.segmentation.mIoU", "Did you mean `tasks.segmentation.miou`"),
        ("kind", "found `kind`"),
        ("metrics.depth", "found `metrics.depth`"),
    ],
)
def test_an_unknown_figure_comes_with_the_nearest(path: str, offered: str) -> None:
    with pytest.raises(UsageError) as caught:
        one(BENCH, f"{path}=1", "maximum")
    assert offered in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "latency_ms.p50", "=1", "latency_ms.p50=", "a=b", "a=nan", "a=inf", "a=%"]
)
@pytest.mark.parametrize("flag", ["minimum", "maximum", "max_regress"])
def test_a_gate_that_cannot_be_read(text: str, flag: str) -> None:
    with pytest.raises(UsageError, match="PATH=NUMBER"):
        parse_gates(**{flag: [text]})


def test_only_a_regression_is_in_percent() -> None:
    assert parse_gates(max_regress=["a=5%"]) == (Gate("--max-regress", "a", 5.0, percent=True),)
    with pytest.raises(UsageError, match="PATH=NUMBER, found `a=5%`"):
        parse_gates(minimum=["a=5%"])


def test_a_regression_needs_a_baseline_with_that_figure() -> None:
    with pytest.raises(UsageError, match="--baseline REPORT"):
        one(BENCH, "latency_ms.p50=5%", "max_regress")
    with pytest.raises(UsageError, match="expected a number, found null"):
        one(evaluated(0.4), "tasks.segmentation.miou=5%", "max_regress", evaluated(None))
    without = {**evaluated(0.4), "tasks": {}}
    with pytest.raises(UsageError, match="expected a figure of the report"):
        one(evaluated(0.4), "tasks.segmentation.miou=5%", "max_regress", without)


def test_a_figure_without_a_direction_cannot_regress() -> None:
    with pytest.raises(UsageError, match="a figure that can get worse"):
        one(BENCH, "settings.batch=1", "max_regress", BENCH)


def test_a_baseline_from_another_device_or_dataset_is_refused() -> None:
    other = {**BENCH, "device": {**BENCH["device"], "cpu": "Cortex-A78AE"}}
    with pytest.raises(UsageError, match=r"device\.cpu"):
        one(BENCH, "latency_ms.p50=5%", "max_regress", other)
    gates = parse_gates(max_regress=["latency_ms.p50=5%"])
    assert judge(BENCH, gates, baseline=other, force=True)[0].passed
    # What does not depend on the device needs no such device.
    assert one(BENCH, "size_mib=0%", "max_regress", other).passed
    with pytest.raises(UsageError, match="data"):
        one(evaluated(0.4), "tasks.segmentation.miou=5%", "max_regress", evaluated(0.4, data="scenes"))


@pytest.mark.parametrize("setting", ["rates", "keyframes"])
def test_what_a_video_costs_is_not_judged_by_one_at_other_rates(setting: str) -> None:
    stats = {"latency_ms": {"mean": 1.0}}
    report = {**BENCH, "video": {"moving": stats}}
    other = {**report, "settings": {**BENCH["settings"], setting: "depth=1/2"}}
    with pytest.raises(UsageError, match=rf"settings\.{setting}"):
        one(report, "video.moving.latency_ms.mean=5%", "max_regress", other)
    assert one(report, "latency_ms.p50=5%", "max_regress", other).passed
