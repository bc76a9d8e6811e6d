"""The parts of a network as one ONNX graph, whose nodes know their part.

A part is a file of the split layout: a segment or a head. In the graph of all parts the name of every node
and of every tensor inside a part begins with the part's name and a slash; the tensors between parts keep the
names that they have in the bundle. So what is decided once for a tensor holds in the files of both layouts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

Array = NDArray[Any]


def part_of(node: NodeProto) -> str:
    """The part that a node belongs to."""
    return str(node.name).partition("/")[0]


def join(parts: Mapping[str, ModelProto], outputs: tuple[str, ...]) -> ModelProto:
    """One graph of all parts, in the order in which they run, from the image to ``outputs``."""
    graph = GraphProto(name="merged")
    written: set[str] = set()
    infos: dict[str, ValueInfoProto] = {}
    for name, model in parts.items():
        part = _named(model.graph, name)
        graph.node.extend(part.node)
        graph.initializer.extend(part.initializer)
        graph.value_info.extend(part.value_info)
        infos |= {info.name: info for info in (*part.input, *part.output)}
        written |= {info.name for info in part.output}
    graph.input.extend(info for name, info in infos.items() if name not in written)
    graph.output.extend(infos[name] for name in outputs)
    graph.value_info.extend(infos[name] for name in sorted(written - set(outputs)))
    first = next(iter(parts.values()))
    return helper.make_model(graph, opset_imports=first.opset_import, ir_version=first.ir_version)


def edges(graph: ModelProto, name: str, reads: Sequence[str], writes: Sequence[str]) -> ModelProto:
    """A file without nodes, for ``extract``: it reads and writes some of the tensors that enter or leave
    ``graph``."""
    infos = {info.name: info for info in (*graph.graph.input, *graph.graph.output)}
    return helper.make_model(
        helper.make_graph([], name, [infos[name] for name in reads], [infos[name] for name in writes])
    )


def extract(joined: ModelProto, file: ModelProto) -> ModelProto:
    """What computes the outputs of ``file`` from its inputs in a joined graph, as a file of its own.

    PyTorch asks the image for a free batch wherever it is needed; all that a file reads has it first, too.

    Raises:
        ValueError: the outputs need more than these inputs.
    """
    inputs, outputs = ([info.name for info in infos] for infos in (file.graph.input, file.graph.output))
    image = joined.graph.input[0].name
    known = {*inputs, "", *constant_names(joined.graph)}
    nodes = []
    for node in joined.graph.node:  # which is sorted: readers come after writers
        reads = list(node.input)
        if node.op_type == "Shape" and reads == [image] and image not in inputs:
            reads = inputs[:1]
        if known.issuperset(reads):
            nodes.append(_reading(node, reads))
            known.update(node.output)
    if lacking := [name for name in outputs if name not in known]:
        raise ValueError(f"{file.graph.name}: {lacking} need more than {inputs}")
    graph = GraphProto(name=file.graph.name, input=file.graph.input, output=file.graph.output)
    graph.node.extend(_needed(nodes, inputs, outputs))
    used = {name for node in graph.node for name in node.input}.union(outputs).difference(inputs)
    graph.initializer.extend(tensor for tensor in joined.graph.initializer if tensor.name in used)
    inside = {name for node in graph.node for name in node.output} - {*inputs, *outputs}
    graph.value_info.extend(info for info in joined.graph.value_info if info.name in inside)
    return helper.make_model(graph, opset_imports=joined.opset_import, ir_version=joined.ir_version)


def _reading(node: NodeProto, names: Sequence[str]) -> NodeProto:
    """A node that reads tensors of these names."""
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = names
    return copy


def _needed(nodes: Sequence[NodeProto], inputs: Sequence[str], outputs: Sequence[str]) -> list[NodeProto]:
    """Those of sorted nodes that outputs need beside inputs."""
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if not needed.isdisjoint(node.output):
            kept.append(node)
            needed.update(set(node.input).difference(inputs))
    return kept[::-1]


def readers(graph: GraphProto) -> dict[str, list[NodeProto]]:
    """The nodes that read each tensor."""
    found: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in dict.fromkeys(node.input):
            found.setdefault(name, []).append(node)
    return found


def writers(graph: GraphProto) -> dict[str, NodeProto]:
    """The node that writes each tensor."""
    return {name: node for node in graph.node for name in node.output}


def between_parts(graph: GraphProto) -> set[str]:
    """What one part writes and another reads; of an extracted part, what leaves it for others."""
    source = writers(graph)
    crossing = {
        name
        for name, nodes in readers(graph).items()
        if name in source and any(part_of(node) != part_of(source[name]) for node in nodes)
    }
    # A file's features are named SEGMENT.FEATURE; a task, whose name has no dot, is for the user.
    return crossing | {info.name for info in graph.output if "." in info.name}


def constants(graph: GraphProto) -> dict[str, Array]:
    """The values of the initializers by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def constant_names(graph: GraphProto) -> set[str]:
    """The names of the initializers."""
    return {tensor.name for tensor in graph.initializer}


def is_convolution(node: NodeProto, fixed: Collection[str]) -> bool:
    """Whether a node is a convolution with a constant weight and bias: others cannot be rounded or scaled
    beforehand."""
    return node.op_type == "Conv" and all(name in fixed for name in node.input[1:] if name)


def set_constants(graph: GraphProto, values: Mapping[str, Array]) -> None:
    """Give initializers other values."""
    for tensor in graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(constant(tensor.name, values[tensor.name].astype(np.float32)))


def copied(model: ModelProto) -> ModelProto:
    """A copy, to be changed."""
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def constant(name: str, value: Array) -> TensorProto:
    """An initializer."""
    return numpy_helper.from_array(np.asarray(value), name)


def set_nodes(graph: GraphProto, nodes: list[NodeProto]) -> None:
    """Replace all nodes, and drop the initializers that nobody reads any more."""
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _named(graph: GraphProto, part: str) -> GraphProto:
    """A copy of a part's graph with its own names made unique."""
    copy = GraphProto()
    copy.CopyFrom(graph)
    edges = {info.name for info in (*graph.input, *graph.output)} | {""}

    def unique(name: str) -> str:
        return name if name in edges else f"{part}/{name}"

    for index, node in enumerate(copy.node):
        node.name = f"{part}/{node.name or index}"
        node.input[:] = [unique(name) for name in node.input]
        node.output[:] = [unique(name) for name in node.output]
    for item in (*copy.initializer, *copy.value_info):
        item.name = unique(item.name)
    return copy
