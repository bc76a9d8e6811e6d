from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
import onnx
from onnx import TensorProto, helper

from edgemtl.export.evaluate import evaluator


@pytest.mark.parametrize("optimize", [True, False])
def test_gives_every_output_by_its_name(optimize: bool) -> None:
    graph = helper.make_graph(
        [helper.make_node("Sub", ["a", "b"], ["less"]), helper.make_node("Mul", ["less", "b"], ["product"])],
        "arithmetic",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in "ab"],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in ("product", "less")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    a, b = np.float32([5, 7]), np.float32([2, 3])
    found = evaluator(model, optimize=optimize)({"b": b, "a": a})
    assert {name: values.tolist() for name, values in found.items()} == {"product": [6, 12], "less": [3, 4]}
