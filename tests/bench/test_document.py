from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edgemtl.bench.document import as_document, figures, higher_is_better, read_report
from edgemtl.core.errors import DataError
from edgemtl.core.report import BenchReport

PATH = Path(__file__).parents[1] / "fixtures/bench_report.json"
DOCUMENT = read_report(PATH)


def test_memory_and_disk_agree() -> None:
    assert as_document(msgspec.json.decode(PATH.read_bytes(), type=BenchReport)) == DOCUMENT


def test_figures_are_numbers_under_dotted_paths() -> None:
    found = figures(DOCUMENT)
    assert found["latency_ms.p50"] == DOCUMENT["latency_ms"]["p50"]
    assert found["tasks.normals.within_11.25"] == 0.25
    assert found["subsets.depth+normals.latency_ms.p99"] is not None
    assert not {path for path in found if path.startswith("metrics") or path == "kind"}


def test_what_is_not_finite_was_not_measured() -> None:
    assert figures(
        {"a": None, "b": float("nan"), "c": {"d": float("inf"), "e": True, "f": "text", "g": 0}}
    ) == {
        "a": None,
        "b": None,
        "c.d": None,
        "c.g": 0,
    }


@pytest.mark.parametrize(
    ("path", "higher"),
    [
        ("latency_ms.p50", False),
        ("memory_mib", False),
        ("subsets.depth.size_mib", False),
        ("images_per_s", True),
        ("tasks.segmentation.miou", True),
        ("tasks.depth.abs", False),
        ("tasks.normals.within_11.25", True),
        ("delta_m", True),
        ("device.memory_mib", None),
        ("settings.batch", None),
        ("format", None),
    ],
)
def test_which_way_is_better(path: str, higher: bool | None) -> None:
    assert higher_is_better(DOCUMENT, path) is higher


@pytest.mark.parametrize(
    "content",
    [
        b"",
        PATH.read_bytes()[:300],
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"kind": "bench", "format": 99}',
        b'{"kind": []}',
        b'{"kind": "bench", "format": 1, "metrics": null}',
        b'{"kind": "bench", "format": 1, "metrics": {"depth": [{"x": 1}]}}',
    ],
    ids=["empty", "truncated", "binary", "list", "object", "later", "odd", "undescribed", "misdescribed"],
)
def test_files_that_are_no_report(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.json: expected a report of format 1"):
        read_report(tmp_path / "a.json")


def test_a_run_that_is_not_finished_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a run that is finished, found neither\. Train to the end"):
        read_report(tmp_path)


def test_a_missing_report(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_report(tmp_path / "a.json")


def test_a_number_beyond_floats_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(f'{{"kind": "bench", "format": 1, "macs": 1{"0" * 400}, "threads": 2}}')
    assert figures(read_report(tmp_path / "a.json")) == {"format": 1, "macs": None, "threads": 2}
