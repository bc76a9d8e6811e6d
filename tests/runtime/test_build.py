from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("onnxruntime")

from edgemtl.core.errors import SetupError
from edgemtl.runtime.build import PACKAGES, Build, hold_types, tensorrt
from tests.fixtures.places import TINY
from tests.runtime.conftest import Install
from tests.runtime.fake_cuda import FakeGpu
from tests.runtime.fake_tensorrt import VERSIONS

MODEL = TINY / "model.onnx"
ROOM = 1 << 30


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_builds_a_free_batch(install: Install, version: str) -> None:
    install(version)
    build = Build(tensorrt(), MODEL, (1, 4))
    assert build.precision == "fp32"
    assert b'"image": [1, 1, 4]' in build.serialize(ROOM)


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """A model file with one output in fp16 and one in fp32."""
    onnx = pytest.importorskip("onnx")
    half, full = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    image, depth, normals = (
        onnx.helper.make_tensor_value_info(name, kind, [1, 3, 4, 4])
        for name, kind in (("image", half), ("depth", half), ("normals", full))
    )
    nodes = [
        onnx.helper.make_node("Relu", ["image"], ["depth"]),
        onnx.helper.make_node("Cast", ["image"], ["normals"], to=full),
    ]
    graph = onnx.helper.make_graph(nodes, "half", [image], [depth, normals])
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "half.onnx")
    return tmp_path / "half.onnx"


@pytest.mark.parametrize("dla", [False, True], ids=["gpu", "dla"])
@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_builds_what_is_typed_fp16(
    install: Install, version: str, dla: bool, half: Path
) -> None:
    """The fake refuses, as TensorRT does, flags where types rule, and fp16 without its flag elsewhere. What
    TensorRT would do in silence, it refuses too: to compute in fp16 what nothing holds in fp32."""
    install(version)
    build = Build(tensorrt(), half, (1, 1), dla=dla)
    assert build.precision == "fp16+fp32"
    engine = build.serialize(ROOM)
    assert (b'"dla": true' in engine) == dla
    assert tensorrt().load(engine, dla=dla) is not None


def test_what_is_all_fp32_needs_no_dla(install: Install) -> None:
    install()
    assert b'"dla": false' in Build(tensorrt(), MODEL, (1, 4), dla=True).serialize(ROOM)


def test_a_board_without_the_dla_that_was_exported_for(install: Install, half: Path) -> None:
    install(gpu=FakeGpu(dla_cores=0))
    with pytest.raises(SetupError, match=r"expected a board with a DLA.*Export it without --dla"):
        Build(tensorrt(), half, (1, 1), dla=True)


def layer(kind: str, reads: str, writes: str, dtype: str) -> SimpleNamespace:
    """A layer of TensorRT as far as it is looked at."""
    tensors = [SimpleNamespace(name=name, dtype=SimpleNamespace(name=dtype)) for name in (reads, writes)]
    return SimpleNamespace(
        type=SimpleNamespace(name=kind),
        num_inputs=1,
        get_input=tensors[:1].__getitem__,
        num_outputs=1,
        get_output=tensors[1:].__getitem__,
        precision=None,
    )


def test_what_runs_in_int8_is_not_held_and_all_else_is_but_integers() -> None:
    quantize, dequantize = layer("QUANTIZE", "a", "b", "INT8"), layer("DEQUANTIZE", "b", "c", "FLOAT")
    convolution, again = layer("CONVOLUTION", "c", "d", "FLOAT"), layer("QUANTIZE", "d", "e", "INT8")
    half, full = layer("CONVOLUTION", "f", "g", "HALF"), layer("RESIZE", "g", "h", "FLOAT")
    shape = layer("SHAPE", "g", "i", "INT32")
    hold_types([quantize, dequantize, convolution, again, half, full, shape])
    assert [one.precision.name for one in (half, full)] == ["HALF", "FLOAT"]
    assert {one.precision for one in (quantize, dequantize, convolution, again, shape)} == {None}


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
