"""Convolutions that read one tensor become one convolution, which ONNX Runtime does not do by itself.

Its kernels compute a block of output channels at a time. Heads of 13, 1 and 3 channels cost a block of 16
each; as one convolution of 17 channels they cost two. TensorRT joins such layers when it builds an engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, helper

from edgemtl.export.graph import Array, constant, constants, copied, readers, set_nodes, writers
from edgemtl.runtime.ort import BLOCK

# In integers, a number of channels that is no multiple of 4 costs a quarter more.
_QUAD = 4


class _Sibling(NamedTuple):
    """A convolution as arrays that can be joined.

    ``scale``: of an int8 weight, by output channel. ``nodes``: what to replace, which writes ``output``.
    """

    weight: Array
    bias: Array
    scale: Array | None
    nodes: tuple[NodeProto, ...]
    output: str


def fuse_siblings(model: ModelProto) -> ModelProto:
    """A copy that computes the same, with one convolution and a split for those that read one tensor alike.

    In int8 those fuse that are rounded right after. Their common convolution divides each output by the scale
    that it is rounded with and adds its zero point, so that a scale of 1 rounds them to the same integers.
    """
    copy = copied(model)
    for siblings in _siblings(copy.graph):
        _replace(copy.graph, siblings)
    return copy


def _siblings(graph: GraphProto) -> list[list[_Sibling]]:
    """Two or more each: with the same input, attributes, kernel size and type."""
    values, source, target = constants(graph), writers(graph), readers(graph)
    found: dict[tuple[object, ...], list[_Sibling]] = {}
    for conv in graph.node:
        if conv.op_type != "Conv" or len(conv.input) < 3 or conv.input[2] not in values:
            continue
        sibling = _sibling(conv, values, source.get(conv.input[1]), target.get(conv.output[0], []))
        attributes = {each.name: helper.get_attribute_value(each) for each in conv.attribute}
        # One that fills its blocks gains nothing.
        if sibling and len(sibling.bias) % BLOCK and attributes.get("group", 1) == 1:
            kind = str(sorted(attributes.items())), sibling.weight.shape[1:], sibling.weight.dtype
            found.setdefault((conv.input[0], *kind), []).append(sibling)
    return [siblings for siblings in found.values() if len(siblings) > 1]


def _sibling(
    conv: NodeProto, values: Mapping[str, Array], real: NodeProto | None, after: Sequence[NodeProto]
) -> _Sibling | None:
    """``real`` makes floats of an int8 weight, ``after`` reads what the convolution writes."""
    bias = values[conv.input[2]]
    if real is None and conv.input[1] in values:
        return _Sibling(values[conv.input[1]], bias, None, (conv,), conv.output[0])
    if real is None or real.op_type != "DequantizeLinear":
        return None
    if real.input[0] not in values or [node.op_type for node in after] != ["QuantizeLinear"]:
        return None
    weight, weight_scale = (values[name] for name in real.input[:2])
    scale, zero_point = (values[name] for name in after[0].input[1:])
    moved = (bias / scale + zero_point).astype(np.float32)
    return _Sibling(weight, moved, weight_scale / scale, (real, conv, after[0]), after[0].output[0])


def _replace(graph: GraphProto, siblings: Sequence[_Sibling]) -> None:
    """Put one convolution and a split where the first of the siblings stands."""
    old = [node for sibling in siblings for node in sibling.nodes]
    convs = [node for node in old if node.op_type == "Conv"]
    name = "+".join(conv.name for conv in convs)
    sizes, outputs = [len(sibling.bias) for sibling in siblings], [sibling.output for sibling in siblings]
    scales = [sibling.scale for sibling in siblings if sibling.scale is not None]
    if scales and sum(sizes) % _QUAD:
        sizes, outputs = [*sizes, -sum(sizes) % _QUAD], [*outputs, f"{name}/unused"]

    def add(field: str, value: Array) -> str:
        graph.initializer.append(constant(f"{name}/{field}", value))
        return f"{name}/{field}"

    def add_joined(field: str, arrays: Sequence[Array]) -> str:
        value = np.concatenate(arrays)
        unused = sum(sizes) - len(value)
        return add(field, np.pad(value, [(0, unused), *[(0, 0)] * (value.ndim - 1)], "edge"))

    conv = NodeProto()
    conv.CopyFrom(convs[0])
    conv.name, conv.output[0] = name, f"{name}/output"
    conv.input[1] = add_joined("weight", [sibling.weight for sibling in siblings])
    conv.input[2] = add_joined("bias", [sibling.bias for sibling in siblings])
    nodes, written = [conv], conv.output[0]
    if scales:
        words = [
            conv.input[1],
            add_joined("scale", scales),
            add("zero_points", np.zeros(sum(sizes), np.int8)),
        ]
        conv.input[1], written = f"{name}/real", f"{name}/rounded"
        real = helper.make_node("DequantizeLinear", words, [conv.input[1]], name=f"{name}/DQ", axis=0)
        words = [conv.output[0], add("one", np.float32(1)), add("zero", np.uint8(0))]
        nodes = [real, conv, helper.make_node("QuantizeLinear", words, [written], name=f"{name}/Q")]
    words = [written, add("sizes", np.array(sizes))]
    nodes.append(helper.make_node("Split", words, outputs, name=f"{name}/split", axis=1))
    place = next(index for index, each in enumerate(graph.node) if each in convs)
    rest = [[each for each in part if each not in old] for part in (graph.node[:place], graph.node[place:])]
    set_nodes(graph, [*rest[0], *nodes, *rest[1]])
