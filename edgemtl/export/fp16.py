"""fp16 as typed ONNX: the tensors themselves are float16, so a strongly typed runtime has no choice to make.

What enters and leaves a file stays float32, with a cast inside. Two kinds of operators stay fp32: those
after the last convolution of a task (the resize to the image, and the length of the normals, whose squares
leave the range of float16), and those that add up or exponentiate many values.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper
from onnx.shape_inference import infer_shapes

from edgemtl.core.errors import GateError
from edgemtl.export.graph import Array, between_parts, constant, constants, copied, part_of, set_nodes

COMPUTES = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
DELICATE = frozenset(
    {
        *("BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization"),
        *("ReduceMean", "ReduceSum", "ReduceL2", "Pow", "Exp", "Log", "Sqrt", "Div", "Softmax"),
        *("Cast", "ConstantOfShape", "EyeLike"),  # whose type is written into them
    }
)


def halve(model: ModelProto, parts: Collection[str]) -> ModelProto:
    """A copy of a graph in which ``parts`` compute in float16.

    Raises:
        GateError: a weight is too large for float16.
    """
    copy = copied(model)
    graph = copy.graph
    floats, fixed = _floats(copy), constants(graph)
    half = _halved(graph, parts)
    as_half: set[str] = set()  # the float tensors that have a float16 twin by now
    as_float = {name for node in graph.node if node.name not in half for name in node.input}
    as_float |= {info.name for info in graph.output}
    nodes: list[NodeProto] = []
    for node in list(graph.node):
        if node.name not in half:
            nodes.append(node)
            continue
        for index, name in enumerate(node.input):
            # The scales of Resize are float32 whatever it resizes.
            if name not in floats or (node.op_type == "Resize" and index):
                continue
            node.input[index] = f"{name}/half"
            if name not in as_half:
                as_half.add(name)
                if name in fixed:
                    graph.initializer.append(constant(f"{name}/half", _rounded(name, fixed[name])))
                else:
                    nodes.append(_cast(name, f"{name}/half", TensorProto.FLOAT16))
        nodes.append(node)
        for index, name in enumerate(node.output):
            if name in floats:
                node.output[index] = f"{name}/half"
                as_half.add(name)
                if name in as_float:
                    nodes.append(_cast(f"{name}/half", name, TensorProto.FLOAT))
    set_nodes(graph, nodes)
    return copy


def _halved(graph: GraphProto, parts: Collection[str]) -> set[str]:
    """The names of the nodes of ``parts`` that compute in float16: convolutions, and what leads to one."""
    needed = between_parts(graph)
    found = set()
    for node in reversed(graph.node):
        if node.op_type in COMPUTES or needed.intersection(node.output):
            needed.update(node.input)
            if part_of(node) in parts and node.op_type not in DELICATE:
                found.add(node.name)
    return found


def _floats(model: ModelProto) -> set[str]:
    """The names of all float32 tensors."""
    graph = infer_shapes(model).graph
    infos = (*graph.input, *graph.value_info, *graph.output)
    tensors = {info.name for info in infos if info.type.tensor_type.elem_type == TensorProto.FLOAT}
    return tensors | {t.name for t in graph.initializer if t.data_type == TensorProto.FLOAT}


def _rounded(name: str, value: Array) -> Array:
    with np.errstate(over="ignore"):
        half = value.astype(np.float16)
    if not np.isfinite(half).all():
        raise GateError(
            name,
            expected="weights below 65504, the largest float16",
            found=f"{np.abs(value).max():.3g}",
            fix="Keep its part in higher precision, as --keep NAME=fp32.",
        )
    return half


def _cast(reads: str, writes: str, to: int) -> NodeProto:
    return helper.make_node("Cast", [reads], [writes], name=f"{writes}/Cast", to=to)
