"""Int8 as Q/DQ nodes: the scales stand in the ONNX file, and every runtime computes with the same ones.

Only convolutions decide what is quantized (those with constant weights): what they read, and backwards from
there what operators write that only move, compare or add values; and what goes from one part to another, so
that the files of the split layout compute what the merged one does. What follows the last convolution of a
task stays fp32; what it writes is rounded too if it is ONNX Runtime (uint8), which multiplies integers only
to write integers. Weights are symmetric int8 with a scale for each output channel, biases stay fp32.

Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference" (arXiv 1806.08342), sections
2 and 3. The placement is that of TensorRT's guide to explicit quantization.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from edgemtl.export.graph import (
    Array,
    between_parts,
    constant,
    constant_names,
    constants,
    copied,
    is_convolution,
    part_of,
    set_nodes,
    writers,
)

Activations = Literal["uint8", "int8"]
Range = tuple[float, float]

# Their result has values of their input alone, so it takes the same scale.
MOVES = frozenset({"MaxPool", "Resize"})
# What runs in integers between two convolutions.
BETWEEN = MOVES | {"Add", "Concat"}
_INT8_MAX = 127


class Scale(NamedTuple):
    """A real number is scale * (integer - zero_point)."""

    scale: Array
    zero_point: Array


def quantize(
    model: ModelProto, parts: Collection[str], ranges: Mapping[str, Range], activations: Activations
) -> ModelProto:
    """A copy of a graph in which ``parts`` compute in int8.

    Args:
        model: as ``join`` or ``extract`` gives it.
        ranges: (smallest, largest) of every tensor in ``quantized_tensors``.
        activations: ``int8`` is symmetric, all that TensorRT takes. ``uint8`` has a zero point and so wastes
            no level on what ReLU writes; ONNX Runtime has its fast kernels for it.
    """
    copy = copied(model)
    graph = copy.graph
    wanted = quantized_tensors(graph, parts, activations)
    inside = {name for name, node in writers(graph).items() if part_of(node) in parts}
    weights = constants(graph)
    nodes: list[NodeProto] = []
    paired: set[str] = set()
    rounded: set[str] = set()
    for node in graph.node:
        if part_of(node) in parts:
            for index, name in enumerate(node.input):
                if name in wanted and name not in inside:
                    # Written elsewhere: others may want it as it is.
                    node.input[index] = f"{name}/dequantized"
                    if name not in paired:
                        nodes += _pair(graph, name, name, f"{name}/dequantized", ranges, activations)
                        paired.add(name)
            if is_convolution(node, weights):
                weight = node.input[1]
                # A layer may be called twice; ONNX Runtime opens no file where two read one weight.
                name = f"{weight}/{node.name}" if weight in rounded else weight
                nodes.append(_quantize_weight(graph, name, weights[weight]))
                node.input[1] = nodes[-1].output[0]
                rounded.add(weight)
        nodes.append(node)
        for index, name in enumerate(node.output):
            if name in wanted and name in inside:
                node.output[index] = f"{name}/float"
                nodes += _pair(graph, name, f"{name}/float", name, ranges, activations)
    set_nodes(graph, nodes)
    return copy


def quantized_tensors(graph: GraphProto, parts: Collection[str], activations: Activations) -> set[str]:
    """The activations that are rounded to 8 bits when ``parts`` compute in int8."""
    fixed = constant_names(graph)
    mine = [node for node in graph.node if part_of(node) in parts]
    written = {name for node in mine for name in node.output}
    infos = (*graph.input, *graph.value_info, *graph.output)
    whole = {info.name for info in infos if info.type.tensor_type.elem_type != TensorProto.FLOAT}
    wanted = between_parts(graph) & written - whole | {
        node.input[0] for node in mine if is_convolution(node, fixed)
    }
    for node in reversed(mine):
        if node.op_type in BETWEEN and wanted.intersection(node.output):
            wanted |= {name for name in _values(node) if name not in fixed}
    return wanted | _last_tensors(graph, parts, wanted) if activations == "uint8" else wanted


def _last_tensors(graph: GraphProto, parts: Collection[str], rounded: Collection[str]) -> set[str]:
    """What the last convolutions of ``parts`` write: no other tensor that is ``rounded`` comes from it."""
    fixed, leads, last = constant_names(graph), set(rounded), set()
    for node in reversed(graph.node):
        if part_of(node) not in parts:
            continue
        if not leads.isdisjoint(node.output):
            leads |= set(node.input)
        elif is_convolution(node, fixed):
            last |= set(node.output)
    return last


def origin(name: str, source: Mapping[str, NodeProto]) -> str:
    """The tensor whose range another shares, by the writers of both: it was only moved from there."""
    while name in source and source[name].op_type in MOVES:
        name = source[name].input[0]
    return name


def activation_scale(lowest: float, highest: float, activations: Activations) -> Scale:
    """The scale of a range; 0 is always exact, as the borders of convolutions need it."""
    lowest, highest = min(lowest, 0.0), max(highest, 0.0)
    if activations == "int8":
        return Scale(_positive(max(-lowest, highest) / _INT8_MAX), np.int8(0))
    scale = _positive((highest - lowest) / 255)
    return Scale(scale, np.uint8(np.clip(np.rint(-lowest / scale), 0, 255)))


def round_weight(weight: Array) -> tuple[Array, Array]:
    """[out, ...] float32 -> int8 of the same shape and a float32 scale for each output channel."""
    scale = _positive(np.abs(weight).reshape(len(weight), -1).max(axis=1) / _INT8_MAX)
    per_channel = scale.reshape(-1, *[1] * (weight.ndim - 1))
    return np.clip(np.rint(weight / per_channel), -_INT8_MAX, _INT8_MAX).astype(np.int8), scale


def _values(node: NodeProto) -> list[str]:
    """The inputs of an operator that carry activations: the others of Resize are its sizes."""
    return list(node.input) if node.op_type in BETWEEN - MOVES else [node.input[0]]


def _positive(scale: Array | float) -> Array:
    """A channel that is zero everywhere may have any scale, only not zero."""
    value = np.asarray(scale, np.float32)
    return np.where(value > np.finfo(np.float32).tiny, value, np.float32(1))


def _pair(
    graph: GraphProto,
    name: str,
    reads: str,
    writes: str,
    ranges: Mapping[str, Range],
    activations: Activations,
) -> list[NodeProto]:
    """Round the tensor ``reads`` to 8 bits and back into ``writes``, with the range of ``name``."""
    scale, zero_point = activation_scale(*ranges[name], activations)
    names = f"{name}/scale", f"{name}/zero_point"
    graph.initializer.extend([constant(names[0], scale), constant(names[1], zero_point)])
    quantized = f"{name}/quantized"
    return [
        helper.make_node("QuantizeLinear", [reads, *names], [quantized], name=f"{name}/Q"),
        helper.make_node("DequantizeLinear", [quantized, *names], [writes], name=f"{name}/DQ"),
    ]


def _quantize_weight(graph: GraphProto, weight: str, value: Array) -> NodeProto:
    """Put a weight into the graph in int8; the node that makes it real again."""
    rounded, scale = round_weight(value)
    names = f"{weight}/quantized", f"{weight}/scale", f"{weight}/zero_point"
    values = rounded, scale, np.zeros(len(scale), np.int8)
    graph.initializer.extend(constant(name, value) for name, value in zip(names, values, strict=True))
    return helper.make_node("DequantizeLinear", names, [f"{weight}/dequantized"], name=f"{weight}/DQ", axis=0)
