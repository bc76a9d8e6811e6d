from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from edgemtl.bench.probe import Request, probe, run_probe
from edgemtl.bench.way import Feeds, Way
from edgemtl.core.bundle import Manifest
from edgemtl.core.errors import SetupError
from edgemtl.runtime.opening import RUNTIMES
from tests.fixtures.places import TINY

WAY = Way("split", ("segmentation", "depth", "normals"))


def test_a_process_of_its_own_tells_time_and_memory() -> None:
    found = probe(Request(str(TINY), WAY, batch=1, threads=1))
    assert found.load_ms > 0
    assert found.first_inference_ms > 0
    if sys.platform == "linux" and found.memory_mib is not None:
        # Two sessions' worth of pages at least; far less than this process with pytest and hypothesis.
        assert 0.1 < found.memory_mib < 100


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"manifest\.json"):
        probe(Request(str(tmp_path), WAY, batch=1, threads=1))


def test_memory_that_a_process_does_not_show_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    request = Request(str(TINY), WAY, batch=1, threads=1)
    if run_probe(request).memory_mib is None:
        pytest.skip("this system tells no peak")
    monkeypatch.setitem(RUNTIMES, "ort", RUNTIMES["ort"]._replace(resident=False))
    assert run_probe(request).memory_mib is None


def test_another_edgemtl_in_the_current_folder_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "edgemtl").mkdir()
    (tmp_path / "edgemtl" / "__init__.py").write_text("raise RuntimeError('another one')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert probe(Request(str(TINY), WAY, batch=1, threads=1)).load_ms > 0


def test_making_the_input_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(way: Way, manifest: Manifest, batch: int) -> Feeds:
        time.sleep(0.5)
        return made(way, manifest, batch)

    made = Way.feeds
    monkeypatch.setattr(Way, "feeds", slow)
    found = run_probe(Request(str(TINY), WAY, batch=1, threads=1))
    assert max(found.load_ms, found.first_inference_ms) < 500
