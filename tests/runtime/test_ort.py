from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgemtl.core.bundle import TensorInfo, read_manifest
from edgemtl.core.errors import BundleError, SetupError
from edgemtl.runtime.ort import OrtSession, onnxruntime
from tests.fixtures.places import TINY

FILE = read_manifest(TINY).layouts["merged"][0]


@pytest.fixture
def no_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    onnxruntime.cache_clear()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    yield
    onnxruntime.cache_clear()


@pytest.mark.usefixtures("no_onnxruntime")
def test_a_missing_package_comes_with_the_install_line() -> None:
    with pytest.raises(SetupError, match=r"pip install 'edgemtl\[ort\]'"):
        OrtSession(TINY / FILE.path, FILE, 1)


@pytest.mark.parametrize("content", [b"", b"no model", (TINY / FILE.path).read_bytes()[:100]])
def test_a_file_that_is_no_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(SetupError, match=r"model\.onnx: expected a model that onnxruntime [\d.]+ can run"):
        OrtSession(path, FILE, 1)


@pytest.mark.parametrize(
    ("channels", "blocked"),
    [
        (0, True),
        (1, False),
        (4, False),
        (5, True),
        (16, True),
        (17, False),
        (20, False),
        (21, True),
        (65, True),
    ],
)
def test_blocks_that_would_be_mostly_padding_are_not_made(channels: int, blocked: bool) -> None:
    file = msgspec.structs.replace(FILE, channels=channels)
    options = OrtSession(TINY / FILE.path, file, 1)._session.get_session_options()
    assert options.graph_optimization_level.name == f"ORT_ENABLE_{'ALL' if blocked else 'EXTENDED'}"


@pytest.mark.parametrize("end", ["inputs", "outputs"])
def test_a_manifest_about_another_file(end: str) -> None:
    other = msgspec.structs.replace(FILE, **{end: (TensorInfo("foreign", (-1, 3, 12, 16)),)})
    with pytest.raises(BundleError, match=f"expected the {end} foreign"):
        OrtSession(TINY / FILE.path, other, 1)


def test_a_run_that_fails_is_one_line() -> None:
    session = OrtSession(TINY / FILE.path, FILE, 1)
    with pytest.raises(SetupError, match=r"\.onnx: expected memory .* found .*Got invalid dimensions"):
        session.run({FILE.inputs[0].name: np.zeros((1, 3, 5, 5), np.float32)})
