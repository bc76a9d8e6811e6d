"""What a weakly typed TensorRT must be told so that it computes in the types that the ONNX file states.

Up to 9 these types are no more than where TensorRT starts from: ``--fp16`` and ``--int8`` allow their types
everywhere, also where the file says fp32. Constraints by the names of layers hold them, and a layer has the
name of its ONNX node. But a node may become several layers of which only some have that name (ReduceL2 has
none for the one that squares), so the rule for all others is fp32.

Sources: ``sampleEngines.cpp`` of trtexec 8.5 and 8.6, ``ImporterContext.hpp`` of onnx-tensorrt.
"""

from __future__ import annotations

from onnx import ModelProto, TensorProto
from onnx.shape_inference import infer_shapes

QUANTIZING = frozenset({"QuantizeLinear", "DequantizeLinear"})


def weak_words(model: ModelProto) -> list[str]:
    """The arguments of trtexec 8 for the types of ``model``; none where all is fp32."""
    graph = infer_shapes(model).graph
    infos = (*graph.input, *graph.value_info, *graph.output)
    types = {info.name: info.type.tensor_type.elem_type for info in infos}
    pairs = [node for node in graph.node if node.op_type in QUANTIZING]
    words = ["--int8"] if pairs else []
    half = [node.name for node in graph.node if types.get(node.output[0]) == TensorProto.FLOAT16]
    if not half:
        return words
    rules = ["*:fp32", *(f"{name}:fp16" for name in half)]
    if pairs:
        # A rule for all others would hold what runs in int8 between two pairs: each node is named instead.
        integers = {name for node in pairs for name in (*node.input, *node.output)}
        rules = [
            f"{node.name}:fp32"
            for node in graph.node
            if types.get(node.output[0]) == TensorProto.FLOAT
            and integers.isdisjoint((*node.input, *node.output))
        ]
    return [*words, "--fp16", "--precisionConstraints=obey", f"--layerPrecisions={','.join(rules)}"]
