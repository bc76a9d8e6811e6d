"""What makes a folded network easier to quantize: cross-layer equalization and bias correction.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (arXiv 1906.04721).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto

from edgemtl.export.graph import (
    Array,
    constant_names,
    constants,
    copied,
    is_convolution,
    part_of,
    readers,
    set_constants,
    writers,
)
from edgemtl.export.int8 import round_weight

# f(s x) = s f(x) for s > 0, channel by channel: a scale passes through them.
HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Resize", "Add"})
_ROUNDS, _DONE = 50, 1e-3


class Space(NamedTuple):
    """Tensors that must be scaled alike, by the convolutions at their ends: weights and biases by name."""

    written: tuple[tuple[str, str], ...]
    read: tuple[str, ...]


def equalize(joined: ModelProto) -> ModelProto:
    """A copy that computes the same with channels of like ranges.

    A channel of a tensor between two convolutions is divided by s in the first and multiplied by s in the
    second; s = sqrt(r1 / r2) gives both the same largest weight (eq. 11, r1 and r2 are the largest of each).
    Where a tensor is the sum of others, as a skip connection makes it, all of them are scaled alike, and r1
    and r2 are the largest over all convolutions that write or read one of them.
    """
    copy = copied(joined)
    values = {
        name: value.astype(np.float64) for name, value in constants(copy.graph).items() if value.dtype == "f4"
    }
    found = spaces(copy.graph)
    for _ in range(_ROUNDS):
        largest = max((_equalize(space, values) for space in found), default=0.0)
        if largest < _DONE:
            break
    set_constants(copy.graph, values)
    return copy


def correct_bias(joined: ModelProto, parts: Collection[str], means: Mapping[str, Array]) -> ModelProto:
    """A copy whose biases make up for what rounding the weights of ``parts`` shifts, on average.

    b <- b - (W_rounded - W) E[x] (eq. 17), with the mean E[x] of each channel on the calibration images. A
    convolution without a bias stays as it is, and so does one that is called twice, on other means.
    """
    copy = copied(joined)
    values, target = constants(copy.graph), readers(copy.graph)
    changed = {}
    for node in copy.graph.node:
        if is_convolution(node, values) and part_of(node) in parts and len(node.input) == 3:
            if len(target[node.input[2]]) > 1:
                continue
            weight, bias, mean = values[node.input[1]], values[node.input[2]], means[node.input[0]]
            rounded, scale = round_weight(weight)
            error = rounded * scale.reshape(-1, *[1] * (weight.ndim - 1)) - weight
            per_channel = error.reshape(len(weight), weight.shape[1], -1).sum(axis=2)
            groups = len(mean) // weight.shape[1]
            shift = np.einsum(
                "goi,gi->go",
                per_channel.reshape(groups, -1, weight.shape[1]),
                mean.reshape(groups, -1),
            )
            changed[node.input[2]] = bias - shift.reshape(-1)
    set_constants(copy.graph, changed)
    return copy


def spaces(graph: GraphProto) -> list[Space]:
    """What may be scaled: the sets of tensors between convolutions, through homogeneous operators."""
    source, target, fixed = writers(graph), readers(graph), constant_names(graph)
    edges = {info.name for info in (*graph.input, *graph.output)}

    def joins(node: NodeProto) -> bool:
        return node.op_type in HOMOGENEOUS

    def alone(node: NodeProto) -> bool:
        # A weight that two convolutions share cannot be scaled for one of them.
        return all(len(target[name]) == 1 for name in node.input[1:])

    found, seen = [], set()
    for start in source:
        if start in seen:
            continue
        space, frontier = {start}, [start]
        while frontier:
            name = frontier.pop()
            around = [node for node in (source.get(name), *target.get(name, ())) if node and joins(node)]
            near = {tensor for node in around for tensor in (*_activations(node), node.output[0])}
            frontier += near - space
            space |= near
        seen |= space
        ends = [source[name] for name in space if name in source and not joins(source[name])]
        uses = [node for name in space for node in target.get(name, ()) if not joins(node)]
        scalable = not space & (edges | fixed) and all(
            is_convolution(node, fixed) and len(node.input) == 3 and alone(node) for node in ends
        )
        if (
            ends
            and uses
            and scalable
            and all(_reads_every_channel(node, fixed) and alone(node) for node in uses)
        ):
            written = tuple((node.input[1], node.input[2]) for node in ends)
            found.append(Space(written, tuple(node.input[1] for node in uses)))
    return found


def _activations(node: NodeProto) -> list[str]:
    return list(node.input) if node.op_type == "Add" else [node.input[0]]


def _reads_every_channel(node: NodeProto, fixed: Collection[str]) -> bool:
    """Whether column i of a weight meets channel i: a convolution that is not grouped."""
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    return groups == 1 and is_convolution(node, fixed)


def _equalize(space: Space, values: dict[str, Array]) -> float:
    """One step for one space; gives the largest |log s|."""
    r1 = np.max([np.abs(_rows(values[weight])).max(axis=1) for weight, _ in space.written], axis=0)
    r2 = np.max([np.abs(_rows(values[weight].swapaxes(0, 1))).max(axis=1) for weight in space.read], axis=0)
    alive = (r1 > 0) & (r2 > 0)
    scale = np.sqrt(np.where(alive, r1, 1) / np.where(alive, r2, 1))
    for weight, bias in space.written:
        values[weight] /= scale.reshape(-1, *[1] * (values[weight].ndim - 1))
        values[bias] /= scale
    for weight in space.read:
        values[weight] *= scale.reshape(1, -1, *[1] * (values[weight].ndim - 2))
    return float(np.abs(np.log(scale)).max())


def _rows(weight: Array) -> Array:
    return weight.reshape(len(weight), -1)
