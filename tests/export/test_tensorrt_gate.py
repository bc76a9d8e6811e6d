"""Does TensorRT take what we export? TensorRT-RTX parses and builds without a GPU, so this runs everywhere.

It is a close relative of the TensorRT of a Jetson, not the same: a bundle that fails here fails there; one
that passes has still to be built and verified on the board.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
trt = pytest.importorskip("tensorrt_rtx", reason="needs edgemtl[trt]: no tensorrt_rtx")

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper, save

from edgemtl.backbones import ResNet, SegNet
from edgemtl.collapse import collapse
from edgemtl.core.bundle import read_manifest
from edgemtl.core.errors import SetupError
from edgemtl.export.onnx import write_models
from edgemtl.kernels import Plain
from edgemtl.runtime.build import Build
from tests.contracts.networks import SIZE as ODD
from tests.contracts.networks import network
from tests.export.gate import serialized, tensorrt_rtx
from tests.export.networks import forked
from tests.fixtures.places import TINY

SIZE = (32, 48)
# Every GPU that it builds for.
CAPABILITIES = [name for name in trt.ComputeCapability.__members__ if name.startswith("SM")]

# Each forks where branches read skip connections from above the fork.
BRANCHES = [["segmentation"], ["depth", "normals"]]
NETWORKS: dict[str, tuple[SegNet | ResNet, str]] = {
    "segnet": (SegNet(widths=(4, 6), convs=(1, 1)), "decoder2"),
    "resnet18": (ResNet(depth=18, width=8), "pyramid2"),
}


@pytest.mark.parametrize(
    ("name", "batch"), [("segnet", (2, 2)), ("segnet", (1, 4)), ("resnet18", (1, 4))], ids=str
)
def test_every_backbone_in_both_layouts(name: str, batch: tuple[int, int], tmp_path: Path) -> None:
    backbone, fork = NETWORKS[name]
    # Every kernel method collapses to the files of a plain network.
    model = collapse(forked(backbone, {fork: BRANCHES}), SIZE).model
    layouts = write_models(model, tmp_path, layouts=("merged", "split"), size=SIZE, batch=batch, opset=18)
    for file in (file for files in layouts.values() for file in files):
        assert serialized(tmp_path / file.path, batch)


def test_every_kind_of_layer(tmp_path: Path) -> None:
    model = collapse(network(Plain(), "forked"), ODD).model
    layouts = write_models(model, tmp_path, layouts=("merged",), size=ODD, batch=(1, 2), opset=18)
    (file,) = layouts["merged"]
    assert serialized(tmp_path / file.path, (1, 2))


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_gpu_that_it_builds_for(capability: str) -> None:
    manifest = read_manifest(TINY)
    for file in (file for files in manifest.layouts.values() for file in files):
        assert serialized(TINY / file.path, manifest.input.batch, capability)


def save_graph(path: Path, nodes: list[NodeProto], kind: int, weights: Sequence[TensorProto] = ()) -> None:
    """A model from ``image`` to ``depth``, both of the type ``kind``."""
    ends = [helper.make_tensor_value_info(name, kind, [1, 3, 8, 8]) for name in ("image", "depth")]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], weights)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)


def test_fp16_is_read_from_the_types(tmp_path: Path) -> None:
    nodes = [helper.make_node("Softplus", ["image"], ["depth"])]
    save_graph(tmp_path / "model.onnx", nodes, TensorProto.FLOAT16)
    assert Build(tensorrt_rtx(), tmp_path / "model.onnx", (1, 1)).precision == "fp16"
    assert serialized(tmp_path / "model.onnx", (1, 1))


def test_int8_is_read_from_the_quantizers(tmp_path: Path) -> None:
    """Symmetric activations, a scale for each channel of the weights, a bias in fp32."""
    random = np.random.default_rng(0)
    arrays = {
        "scale": np.float32(0.1),
        "zero": np.int8(0),
        "scales": np.full(3, 0.01, np.float32),
        "zeros": np.zeros(3, np.int8),
        "weight": random.integers(-127, 128, (3, 3, 3, 3), np.int8),
        "bias": np.zeros(3, np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["quantized"]),
        helper.make_node("DequantizeLinear", ["quantized", "scale", "zero"], ["x"]),
        helper.make_node("DequantizeLinear", ["weight", "scales", "zeros"], ["w"], axis=0),
        helper.make_node("Conv", ["x", "w", "bias"], ["depth"], pads=[1] * 4),
    ]
    weights = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    save_graph(tmp_path / "model.onnx", nodes, TensorProto.FLOAT, weights)
    assert Build(tensorrt_rtx(), tmp_path / "model.onnx", (1, 1)).precision == "fp32+int8"
    assert serialized(tmp_path / "model.onnx", (1, 1))


def test_max_unpooling_fails_the_gate(tmp_path: Path) -> None:
    halves = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        helper.make_node("MaxPool", ["image"], ["pooled", "where"], **halves),
        helper.make_node("MaxUnpool", ["pooled", "where"], ["depth"], **halves),
    ]
    save_graph(tmp_path / "model.onnx", nodes, TensorProto.FLOAT)
    with pytest.raises(SetupError, match=r"model that tensorrt_rtx [\d.]+ can read.*MaxUnpool"):
        serialized(tmp_path / "model.onnx", (1, 1))
