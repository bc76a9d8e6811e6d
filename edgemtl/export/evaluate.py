"""What an ONNX model computes that is not a file yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from onnx import ModelProto
from onnxruntime.capi.onnxruntime_inference_collection import InferenceSession
from onnxruntime.capi.onnxruntime_pybind11_state import GraphOptimizationLevel, SessionOptions

from edgemtl.export.graph import Array
from edgemtl.runtime.ort import EXACT_INTEGERS


def evaluator(
    model: ModelProto, *, optimize: bool = True
) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """A function from the inputs of a model to its outputs, by name. Without ``optimize`` it computes node by
    node, as the model is written.
    """
    options = SessionOptions()
    options.log_severity_level = 3  # errors only
    options.add_session_config_entry(*EXACT_INTEGERS)
    if not optimize:
        options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    session = InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [tensor.name for tensor in session.get_outputs()]
    return lambda inputs: dict(zip(names, map(np.asarray, session.run(names, inputs)), strict=True))
