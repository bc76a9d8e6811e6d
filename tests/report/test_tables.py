from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest
from rich.console import Console
from rich.table import Table

from edgemtl.core.report import (
    BenchReport,
    ComparedRow,
    Comparison,
    Deviation,
    EvalReport,
    MetricInfo,
    Verdict,
    VerifyReport,
    VideoMeasure,
    VideoUse,
)
from edgemtl.report.tables import bench_table, comparison_table, eval_table, gates_table, verify_table

BENCH = msgspec.json.decode(
    (Path(__file__).parents[1] / "fixtures/bench_report.json").read_bytes(), type=BenchReport
)
GOOD = Deviation(
    passed=True,
    max_abs=1.5e-7,
    mean_abs=1e-8,
    max_rel=2e-7,
    sample=1,
    channel=0,
    pixel=(3, 4),
    expected=1.0,
    found=1.0,
    atol=1e-5,
)
VERIFY = VerifyReport(
    bundle="tiny",
    manifest_sha256="0" * 64,
    created="",
    runtime="onnxruntime 1.31.1",
    samples=2,
    atol=1e-5,
    rtol=1e-4,
    layouts={
        "merged": {"depth": GOOD},
        "split": {"depth": msgspec.structs.replace(GOOD, passed=False, max_abs=0.25)},
    },
    passed=False,
)
EVAL = EvalReport(
    subject="runs/a[1]",
    network="bundle",
    data="nyuv2",
    split="val",
    images=654,
    created="",
    tasks={"segmentation": {"miou": 0.2134}, "depth": {}},
    metrics={
        "segmentation": (MetricInfo("miou", "1", True),),
        "depth": (MetricInfo("abs", "m", False),),
    },
    baseline="runs/twins",
    delta_m=-1.234,
    delta_m_tasks={"segmentation": 2.5},
    delta_m_metrics={"segmentation": {"miou": 2.54}},
)
GATES = (
    Verdict(gate="--max latency_ms.p99=2", value=8.79, bound="at most", limit=2.0, passed=False),
    Verdict(
        gate="--min tasks.normals.within_11.25=0.2", value=None, bound="at least", limit=0.2, passed=False
    ),
    Verdict(gate="--min tasks.segmentation.miou=0.4", value=0.42, bound="at least", limit=0.4, passed=True),
)
COMPARISON = Comparison(
    "bench",
    ("runs/[a]/bench.json", "runs/b/bench.json"),
    (
        ComparedRow("latency_ms.p50", (4.0, 5.0), False),
        ComparedRow("tasks.segmentation.miou", (0.4, 0.5), True),
        ComparedRow("memory_mib", (None, 20.0), False),
    ),
    ("settings.threads",),
)
TABLES = {
    "bench": lambda: bench_table(BENCH),
    "verify": lambda: verify_table(VERIFY),
    "evaluate": lambda: eval_table(EVAL),
    "gates": lambda: gates_table(GATES),
    "compare": lambda: comparison_table(COMPARISON),
}


def show(table: Table, width: int = 100, color: bool = False) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, force_terminal=color, no_color=not color).print(table)
    return stream.getvalue()


def words(table: Table, width: int) -> str:
    """What is shown, with the spaces and line breaks taken out that folding puts in."""
    return "".join(show(table, width).split())


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("width", [60, 72, 120])
def test_nothing_is_cut_off_on_a_narrow_terminal(name: str, width: int) -> None:
    shown = show(TABLES[name](), width)
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown
    table = TABLES[name]()
    for column in list(table.columns)[1:]:
        for cell in column.cells:
            assert str(cell) in shown


@pytest.mark.parametrize("name", TABLES)
def test_without_color_there_are_no_escape_codes_and_the_same_words(name: str) -> None:
    plain, colored = show(TABLES[name]()), show(TABLES[name](), color=True)
    assert "\x1b" not in plain
    assert "\x1b" in colored
    assert all(line.strip() in plain for line in plain.splitlines())


def test_bench_names_every_way_and_its_units() -> None:
    shown = show(bench_table(BENCH))
    for name in [
        *BENCH.layouts,
        *BENCH.segments,
        *BENCH.subsets,
        "p50 ms",
        "p99 ms",
        "mem MiB",
        "file MiB",
        "MMAC",
    ]:
        assert name in shown
    assert "merged *" in shown
    assert "images/s" in shown


def test_bench_shows_a_dash_for_what_was_not_measured() -> None:
    merged = msgspec.structs.replace(BENCH.layouts["merged"], memory_mib=None)
    report = msgspec.structs.replace(BENCH, layouts={"merged": merged}, segments={}, subsets={}, load_ms=None)
    shown = show(bench_table(report))
    assert " - " in shown
    assert "load - ms" in shown
    assert "segment" not in shown


def test_verify_says_where_it_is_worst() -> None:
    shown = show(verify_table(VERIFY))
    assert "#1 3,4" in shown
    assert shown.count("pass") == shown.count("FAIL") == 1


def test_evaluate_shows_directions_units_and_the_baseline() -> None:
    shown = show(eval_table(EVAL))
    assert "runs/a[1]" in shown, "a path is no markup"
    for expected in (
        "0.213",
        "higher",
        "lower",
        "-1.23",
        "+2.50",
        "+2.54",
        "baseline runs/twins",
        "654 images",
    ):
        assert expected in shown


def test_gates_say_what_was_allowed() -> None:
    shown = show(gates_table(GATES))
    assert "<= 2.00" in shown
    assert ">= 0.400" in shown
    assert (shown.count("FAIL"), shown.count("pass")) == (2, 1)


def test_comparison_shows_changes_and_what_was_forced() -> None:
    shown = show(comparison_table(COMPARISON))
    assert shown.count("+25.0%") == 2
    assert "A: runs/[a]/bench.json" in shown
    assert "unlike in settings.threads" in shown


def test_bench_says_what_a_frame_of_a_video_costs() -> None:
    stats = BENCH.latency_ms
    moving = VideoMeasure(
        latency_ms=msgspec.structs.replace(stats, mean=1.25),
        worst_latency_ms=msgspec.structs.replace(stats, mean=2.5),
        full_latency_ms=msgspec.structs.replace(stats, mean=3.75),
        calls={"trunk": 0.5},
    )
    shown = show(bench_table(msgspec.structs.replace(BENCH, video={"moving": moving})))
    assert "moving video: 1.25 ms a frame, the dearest 2.50, all tasks 3.75" in shown


def test_evaluate_says_how_old_the_answers_of_a_video_are() -> None:
    use = VideoUse(rates={"depth": "1/3"}, keyframes=None, age_frames={"depth": 1.0}, calls={"trunk": 0.4})
    shown = show(eval_table(msgspec.structs.replace(EVAL, video=use)))
    assert "mean age in frames: depth 1.00" in shown
    assert "runs a frame: trunk 0.400" in shown
