from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")

from edgemtl.core.errors import SetupError
from edgemtl.runtime.build import PACKAGES, Build, tensorrt
from tests.runtime.conftest import Install
from tests.runtime.fake_tensorrt import VERSIONS

TINY = Path(__file__).parents[1] / "fixtures/tiny_bundle"
MODEL = TINY / "model.onnx"
ROOM = 1 << 30


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_builds_a_free_batch(install: Install, version: str) -> None:
    install(version)
    build = Build(tensorrt(), MODEL, (1, 4))
    assert build.precision == "fp32"
    assert b'"image": [1, 1, 4]' in build.serialize(ROOM)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_builds_what_is_typed_fp16(install: Install, version: str, tmp_path: Path) -> None:
    """The fake refuses, as TensorRT does, flags where types rule, and fp16 without its flag elsewhere."""
    onnx = pytest.importorskip("onnx")
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT16, [1, 3, 4, 4])
        for name in ("image", "depth")
    ]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["image"], ["depth"])], "half", ends[:1], ends[1:]
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "half.onnx")
    install(version)
    build = Build(tensorrt(), tmp_path / "half.onnx", (1, 1))
    assert build.precision == "fp16"
    assert build.serialize(ROOM)


def test_a_file_that_is_no_model(install: Install, tmp_path: Path) -> None:
    install()
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(SetupError, match=r"model\.onnx: expected a model that tensorrt 10\.3\.0 can read"):
        Build(tensorrt(), tmp_path / "model.onnx", (1, 1))


def test_a_build_without_memory_says_so(install: Install) -> None:
    install()
    build = Build(tensorrt(), MODEL, (1, 4))
    with pytest.raises(
        SetupError, match=r"build an engine in 0 MiB, found out of memory.*Close other programs"
    ):
        build.serialize(workspace_bytes=0)


def test_no_tensorrt(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install()
    for package in PACKAGES:
        monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr("edgemtl.runtime.build.find_spec", lambda _: None)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(SetupError, match=r"--system-site-packages.*pip install 'edgemtl\[trt\]'"):
        tensorrt()
