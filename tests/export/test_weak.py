from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from onnx import ModelProto, TensorProto
from onnx.shape_inference import infer_shapes

from edgemtl.export.fp16 import halve
from edgemtl.export.graph import part_of
from edgemtl.export.int8 import quantize, quantized_tensors
from edgemtl.export.weak import weak_words
from tests.export.networks import joined, parts

HEAD, REST = {"head_normals"}, set(parts()) - {"head_normals"}


def rules(model: ModelProto) -> dict[str, str]:
    """The precision of each name, as trtexec reads the argument."""
    (argument,) = (word for word in weak_words(model) if word.startswith("--layerPrecisions="))
    return dict(pair.split(":") for pair in argument.partition("=")[2].split(","))


def quantized(names: set[str]) -> ModelProto:
    ranges = dict.fromkeys(quantized_tensors(joined().graph, names, "int8"), (-1.0, 1.0))
    return quantize(joined(), names, ranges, "int8")


def written_as(model: ModelProto, kind: int) -> set[str]:
    """The nodes that write a type."""
    graph = infer_shapes(model).graph
    infos = (*graph.value_info, *graph.output)
    types = {info.name: info.type.tensor_type.elem_type for info in infos}
    return {node.name for node in graph.node if types[node.output[0]] == kind}


def test_no_flag_allows_what_no_part_needs() -> None:
    assert weak_words(joined()) == []
    assert weak_words(quantized(set(parts()))) == ["--int8"]


@pytest.mark.parametrize("names", [set(parts()), REST], ids=["all", "a head kept in fp32"])
def test_in_fp16_all_that_is_not_float16_is_held(names: set[str]) -> None:
    model = halve(joined(), names)
    assert weak_words(model)[:2] == ["--fp16", "--precisionConstraints=obey"]
    half = written_as(model, TensorProto.FLOAT16)
    assert rules(model) == {"*": "fp32", **dict.fromkeys(half, "fp16")}
    assert {
        part_of(node) for node in model.graph.node if node.op_type == "Conv" and node.name in half
    } == names


def test_beside_int8_what_is_fp32_is_held_by_its_name() -> None:
    """A rule for all names would forbid int8."""
    model = halve(quantized(REST), HEAD)
    assert weak_words(model)[:3] == ["--int8", "--fp16", "--precisionConstraints=obey"]
    found = rules(model)
    assert set(found.values()) == {"fp32"}
    assert set(found) <= written_as(model, TensorProto.FLOAT)
    operators = {node.name: node.op_type for node in model.graph.node}
    assert {"ReduceSum", "Sqrt"} <= {operators[name] for name in found}
    in_int8 = {node.name for node in model.graph.node if node.op_type == "Conv" and part_of(node) in REST}
    assert not in_int8 & set(found)
