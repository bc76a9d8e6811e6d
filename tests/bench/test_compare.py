from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgemtl.bench.compare import ALIKE, ALIKE_WHERE_SAID, compare
from edgemtl.bench.document import read_report
from edgemtl.core.errors import DataError, UsageError

BENCH = read_report(Path(__file__).parents[1] / "fixtures/bench_report.json")
DIFFERENT = {"latency_ms": {**BENCH["latency_ms"], "p50": 99.0}}


def write(path: Path, **changes: Any) -> Path:
    path.write_bytes(msgspec.json.encode({**BENCH, **changes}))
    return path


def changed(dotted: str) -> dict[str, Any]:
    part, name = dotted.split(".")
    return {part: {**copy.deepcopy(BENCH[part]), name: "other"}}


def test_figures_stand_side_by_side_in_the_order_named(tmp_path: Path) -> None:
    paths = [write(tmp_path / "a.json"), write(tmp_path / "b.json", **DIFFERENT), write(tmp_path / "c.json")]
    found = compare(paths)
    assert found.names == tuple(map(str, paths))
    assert found.differences == ()
    rows = {row.path: row for row in found.rows}
    median = BENCH["latency_ms"]["p50"]
    assert rows["latency_ms.p50"].values == (median, 99.0, median)
    assert not rows["latency_ms.p50"].higher_is_better
    assert rows["tasks.segmentation.miou"].higher_is_better
    assert "subsets.depth.latency_ms.p50" in rows


def test_only_figures_with_a_direction_and_few_percentiles_are_shown(tmp_path: Path) -> None:
    rows = compare([write(tmp_path / "a.json"), write(tmp_path / "b.json")]).rows
    paths = {row.path for row in rows}
    assert not {path for path in paths if path.startswith(("settings", "device"))}
    assert "latency_ms.std" not in paths
    assert "layouts.split.latency_ms.p99" not in paths


def test_of_a_video_the_average_and_the_worst_frame_are_shown(tmp_path: Path) -> None:
    stats = BENCH["latency_ms"]
    measure = {
        "latency_ms": stats,
        "worst_latency_ms": stats,
        "full_latency_ms": stats,
        "calls": {"trunk": 0.5},
    }
    reports = [write(tmp_path / f"{name}.json", video={"moving": measure}) for name in "ab"]
    rows = {row.path: row.higher_is_better for row in compare(reports).rows if row.path.startswith("video")}
    moving = "video.moving"
    assert rows == {f"{moving}.latency_ms.mean": False, f"{moving}.worst_latency_ms.p50": False}


def test_videos_at_other_rates_are_unlike(tmp_path: Path) -> None:
    slow = {**BENCH["settings"], "rates": "depth=1/3"}
    video = {"moving": {"latency_ms": BENCH["latency_ms"]}}
    alike = [write(tmp_path / "a.json", video=video), write(tmp_path / "b.json", settings=slow)]
    assert compare(alike).differences == ()  # one of them has no video to compare
    unlike = [alike[0], write(tmp_path / "c.json", settings=slow, video=video)]
    with pytest.raises(UsageError, match=r"c\.json: expected settings\.rates None"):
        compare(unlike)
    assert compare(unlike, force=True).differences == ("settings.rates",)


def test_evaluations_at_another_size_are_unlike(tmp_path: Path) -> None:
    for name, size in ("a", [16, 24]), ("b", [32, 48]):
        report = {"kind": "evaluate", "format": 1, "size": size, "tasks": {}}
        (tmp_path / f"{name}.json").write_bytes(msgspec.json.encode(report))
    with pytest.raises(UsageError, match=r"expected size \[16, 24\]"):
        compare([tmp_path / "a.json", tmp_path / "b.json"])


def test_a_figure_that_one_report_lacks_is_none(tmp_path: Path) -> None:
    paths = [write(tmp_path / "a.json", segments={}, memory_mib=None), write(tmp_path / "b.json")]
    rows = {row.path: row.values for row in compare(paths).rows}
    assert rows["segments.trunk.latency_ms.p50"][0] is None
    assert rows["segments.trunk.latency_ms.p50"][1] is not None
    assert rows["memory_mib"] == (None, BENCH["memory_mib"])


@pytest.mark.parametrize("dotted", ALIKE["bench"])
def test_unlike_reports_are_refused_and_the_difference_named(tmp_path: Path, dotted: str) -> None:
    paths = [write(tmp_path / "a.json"), write(tmp_path / "b.json", **changed(dotted))]
    with pytest.raises(UsageError, match=rf"b\.json: expected {dotted} .* as in .*a\.json, found other"):
        compare(paths)
    assert compare(paths, force=True).differences == (dotted,)


def test_what_one_compares_may_differ(tmp_path: Path) -> None:
    device = {"device": {**BENCH["device"], "runtime": "onnxruntime 9.9", "kernel": "Linux 9"}}
    paths = [write(tmp_path / "a.json"), write(tmp_path / "b.json", bundle="other", **device)]
    assert compare(paths).differences == ()


@pytest.mark.parametrize("dotted", ALIKE_WHERE_SAID)
def test_what_one_report_does_not_say_may_differ(tmp_path: Path, dotted: str) -> None:
    """Each runtime has settings of its own."""
    name = dotted.partition(".")[2]
    here, there, silent = (
        {"settings": {**BENCH["settings"], name: "here"}},
        {"settings": {**BENCH["settings"], name: "there"}},
        {"settings": {key: value for key, value in BENCH["settings"].items() if key != name}},
    )
    paths = [write(tmp_path / f"{n}.json", **changes) for n, changes in enumerate((here, silent, there))]
    assert compare(paths[:2]).differences == ()
    with pytest.raises(UsageError, match=rf"expected {dotted} here, .* found there"):
        compare([paths[0], paths[2]])


def test_the_third_report_counts_too(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / "a.json"),
        write(tmp_path / "b.json"),
        write(tmp_path / "c.json", **changed("device.cpu")),
    ]
    with pytest.raises(UsageError, match=r"c\.json: expected device\.cpu"):
        compare(paths)


def test_each_is_held_to_every_other(tmp_path: Path) -> None:
    """What the first does not say, the others may say differently."""
    (dotted,) = ALIKE_WHERE_SAID[:1]
    part, name = dotted.split(".")
    silent = {key: value for key, value in BENCH[part].items() if key != name}
    paths = [write(tmp_path / "a.json", **{part: silent}), write(tmp_path / "b.json", **changed(dotted))]
    assert compare(paths).differences == ()
    with pytest.raises(UsageError, match=rf"c\.json.*{dotted}"):
        compare([*paths, write(tmp_path / "c.json", **{part: {**BENCH[part], name: "third"}})])


def test_a_name_that_is_no_text_is_shown_as_far_as_it_is(tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path / "b") + b"\xdf.json"))
    found = compare([write(tmp_path / "a.json"), write(odd)])
    assert found.names[1].endswith("b\ufffd.json")
    found.names[1].encode()


def test_unlike_kinds_are_refused_even_by_force(tmp_path: Path) -> None:
    paths = [write(tmp_path / "a.json"), write(tmp_path / "b.json", kind="evaluate")]
    with pytest.raises(UsageError, match="expected kind bench"):
        compare(paths, force=True)


def test_one_report_is_no_comparison(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two reports or more"):
        compare([write(tmp_path / "a.json")])


def test_a_file_that_is_no_report(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(DataError, match=r"b\.json"):
        compare([write(tmp_path / "a.json"), tmp_path / "b.json"])
