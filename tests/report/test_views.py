"""Every report has a view that fits a narrow terminal and breaks no word of a name."""

from __future__ import annotations

import io
import re
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from edgemtl.core.device import Power, Rail
from edgemtl.core.diagnosis import Diagnosis, Finding
from edgemtl.core.inspection import Agreement, Certificate, DataCheck, Inspection, LabelCheck, Part, Skipped
from edgemtl.core.report import (
    BenchReport,
    ComparedRow,
    Comparison,
    Deviation,
    EvalReport,
    MetricInfo,
    VerifyReport,
)
from edgemtl.report.views import view

TASKS = ("semantic_segmentation", "depth", "surface_normals")


def part(segment: str, name: str) -> Part:
    shape = (512, 288, 384)
    return Part(
        segment=segment,
        name=name,
        tasks=TASKS,
        shape=shape,
        trained=14_174_208,
        parameters=7_079_424,
        macs=10_192_200_000,
    )


def inspection(*parts: Part) -> Inspection:
    return Inspection(
        subject="nyuv2_segnet",
        size=(288, 384),
        parts=parts,
        trained=48_488_893,
        parameters=25_815_633,
        macs=83_887_100_000,
        plain=(Skipped("stem.conv1", "too few channels"), Skipped("stem.conv2", "too few channels")),
    )


BENCH = msgspec.json.decode(
    (Path(__file__).parents[1] / "fixtures/bench_report.json").read_bytes(), type=BenchReport
)
ONE = Agreement(1.5e-7, 2e-7)
GOOD = Deviation(
    passed=True,
    max_abs=1e-7,
    mean_abs=1e-8,
    max_rel=1e-7,
    sample=1,
    channel=0,
    pixel=(287, 383),
    expected=1.0,
    found=1.0,
    atol=1e-5,
)
NETWORK = inspection(
    part("trunk", "encoder1"),
    part("trunk", "encoder2"),
    part("branch_depth_surface_normals", "decoder1"),
    part("branch_semantic_segmentation", "decoder1"),
    part("branch_semantic_segmentation", "head_semantic_segmentation"),
    part("branch_depth_surface_normals", "head_depth"),
    part("branch_depth_surface_normals", "head_surface_normals"),
)
BUNDLE = inspection(part("trunk", "trunk.onnx"), part("head_depth", "head_depth.onnx"))
REPORTS = {
    "bench": BENCH,
    "verify": VerifyReport(
        bundle="bundle",
        manifest_sha256="0" * 64,
        created="",
        runtime="onnxruntime 1.31.1",
        samples=8,
        atol=1e-5,
        rtol=1e-4,
        layouts={"merged": dict.fromkeys(TASKS, GOOD), "split": dict.fromkeys(TASKS, GOOD)},
        passed=True,
    ),
    "evaluate": EvalReport(
        subject="runs/nyuv2_compact",
        network="collapsed",
        data="nyuv2",
        split="val",
        images=654,
        created="",
        tasks={"surface_normals": {"within_11.25": 0.25}},
        metrics={"surface_normals": (MetricInfo("within_11.25", "1", True),)},
    ),
    "compare": Comparison(
        "bench",
        ("a.json", "b.json", "c.json"),
        (ComparedRow("layouts.merged.latency_ms.p50", (12.3, 14.5, 9.81), False),),
        (),
    ),
    "certificate": Certificate(
        fp64=dict.fromkeys(TASKS, ONE),
        fp32=dict.fromkeys(TASKS, ONE),
        size=(288, 384),
        parameters=(48_531_234, 25_055_185),
        macs=(70_123_456_789, 68_612_345_678),
        unfolded=(Skipped("trunk.stem.norm", "follows no convolution or linear layer"),),
        split="val",
        scores={"surface_normals": {"within_11.25": (0.25, 0.25)}},
    ),
    "network": NETWORK,
    "bundle": BUNDLE,
    "doctor": Diagnosis(
        findings=(
            Finding("edgemtl[desk]", "absent", "without torch, onnx", "pip install 'edgemtl[desk]'"),
            Finding("onnxruntime", "broken", "Error: " + "libonnxruntime.so: cannot open it " * 3, "Again."),
            Finding("board", "ok", "NVIDIA Jetson Orin Nano Developer Kit, L4T 36.4.3"),
        )
    ),
    "data": DataCheck(
        split="val",
        images=654,
        size=(288, 384),
        labels={
            "semantic_segmentation": LabelCheck(kind="classes", valid=0.8, classes={"night_stand": 0.051}),
            "depth": LabelCheck(kind="depth", valid=0.99, depth_m=(0.71, 9.99)),
        },
    ),
}
NAMES = {
    "bench": [*BENCH.layouts, *BENCH.segments, *BENCH.subsets],
    "verify": [f"{layout} {task}" for layout in ("merged", "split") for task in TASKS],
    "evaluate": ["surface_normals within_11.25"],
    "compare": ["layouts.merged.latency_ms.p50"],
    "certificate": [*TASKS, "surface_normals within_11.25"],
    "network": [*{p.segment: 0 for p in NETWORK.parts}, *(p.name for p in NETWORK.parts)],
    "bundle": [p.name for p in BUNDLE.parts],
    "doctor": ["ok", "absent", "broken"],
    "data": ["semantic_segmentation", "night_stand", "depth"],
}


def show(report: object, width: int = 100) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(view(report))
    return stream.getvalue()


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize("width", [60, 80])
def test_a_narrow_terminal_cuts_nothing_and_breaks_no_word_of_a_name(name: str, width: int) -> None:
    shown = show(REPORTS[name], width)
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown
    words = Counter(word for full in NAMES[name] for word in re.split(r"[ _.+]", full))
    found = Counter(re.split(r"[\s_.+]+", shown))
    assert {word: found[word] for word in words if found[word] < words[word]} == {}


@pytest.mark.parametrize("name", REPORTS)
def test_a_wide_terminal_shows_every_name_in_one_piece(name: str) -> None:
    lines = show(REPORTS[name], 120).splitlines()
    for full in NAMES[name]:
        assert any(line.strip().startswith(full) for line in lines), full


def test_parts_stand_under_their_segment() -> None:
    found = [line.split()[0] for line in show(NETWORK).splitlines()[3:] if line.split()]
    assert found[:10] == [
        "trunk",
        "encoder1",
        "encoder2",
        "branch_depth_surface_normals",
        "decoder1",
        "head_depth",
        "head_surface_normals",
        "branch_semantic_segmentation",
        "decoder1",
        "head_semantic_segmentation",
    ]


def test_costs_have_their_units_and_totals() -> None:
    shown = show(NETWORK)
    for expected in "288x384", "14,174,208", "MMAC", "10192", "48,488,893", "83887", "98.48 MiB in fp32":
        assert expected in shown
    assert "plain, too few channels: stem.conv1, stem.conv2" in shown


def test_a_certificate_shows_errors_savings_and_what_stays() -> None:
    shown = show(REPORTS["certificate"])
    for expected in "2.0e-07", "48,531,234 -> 25,055,185", "70,123.5 with composing -> 68,612.3", "on val":
        assert expected in shown
    assert "trunk.stem.norm stays: follows no convolution or linear layer" in shown


def test_data_are_shown_with_the_spread_of_their_labels() -> None:
    shown = show(REPORTS["data"])
    for expected in "val: 654 images 288x384", "80.0%", "5.1%", "0.71..9.99 m":
        assert expected in shown


def test_what_is_no_report_has_no_view() -> None:
    with pytest.raises(TypeError, match="no view of int"):
        view(3)


def test_a_diagnosis_shows_extras_in_brackets_and_every_fix() -> None:
    shown = show(REPORTS["doctor"], 80)
    for expected in "edgemtl[desk]", "-> pip install 'edgemtl[desk]'", "-> Again.":
        assert expected in shown


def test_power_is_that_of_the_whole_board_or_of_each_rail() -> None:
    rails = {"VDD_IN": Rail(7.4, 9.1, 12, "ina3221"), "VDD_SOC": Rail(1.5, 1.6, 12, "ina3221")}
    device = msgspec.structs.replace(BENCH.device, power=Power(7.4, "VDD_IN", rails))
    shown = show(msgspec.structs.replace(BENCH, device=device))
    assert "VDD_IN 7.40 W, at most 9.10 W" in shown
    assert "VDD_SOC" not in shown
    device = msgspec.structs.replace(BENCH.device, power=Power(None, None, rails))
    assert "VDD_SOC 1.50 W" in show(msgspec.structs.replace(BENCH, device=device))


def test_a_machine_that_throttled_is_warned_of() -> None:
    device = msgspec.structs.replace(BENCH.device, warnings=("throttling: gpu",))
    assert "warning: throttling: gpu" in show(msgspec.structs.replace(BENCH, device=device))
    assert "warning" not in show(BENCH)
