from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import numpy as np
import onnx

from edgemtl.core.errors import GateError
from edgemtl.export.fp16 import halve
from edgemtl.export.graph import constants, copied, extract, part_of, set_constants
from tests.export.networks import TASKS, images, joined, parts, run, run_in_turn

SOME = {"trunk", "head_normals"}


@pytest.mark.parametrize("chosen", [set(parts()), SOME, set()], ids=["all", "some", "none"])
def test_both_layouts_are_valid_typed_and_near_fp32(chosen: set[str]) -> None:
    merged = halve(joined(), chosen)
    split = {name: halve(extract(joined(), file), chosen) for name, file in parts().items()}
    for model in (merged, *split.values()):
        onnx.checker.check_model(model, full_check=True)  # infers every type, and compares
        assert all(i.type.tensor_type.elem_type == onnx.TensorProto.FLOAT for i in model.graph.input)
        assert all(o.type.tensor_type.elem_type == onnx.TensorProto.FLOAT for o in model.graph.output)
    exact, found = (run(model, {"image": images(1)}) for model in (joined(), merged))
    apart = run_in_turn(split, images(1))
    for task, value in exact.items():
        error = np.abs(found[task] - value).max() / np.abs(value).max()
        assert (0 < error < 0.02) if chosen else error == 0
        np.testing.assert_allclose(apart[task], found[task], atol=0.02 * np.abs(value).max())


def test_weights_of_the_chosen_parts_take_half_the_space_and_those_of_others_stay() -> None:
    graph = halve(joined(), SOME).graph
    values = constants(graph)
    for node in graph.node:
        if node.op_type == "Conv":
            expected = np.float16 if part_of(node) in SOME else np.float32
            assert values[node.input[1]].dtype == values[node.input[2]].dtype == expected


def test_normals_keep_their_length_because_what_follows_the_last_convolution_is_fp32() -> None:
    model = halve(joined(), set(parts()))
    normals = run(model, {"image": images(1)})["normals"]
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-6)
    half = {node.op_type for node in model.graph.node if any(name.endswith("/half") for name in node.input)}
    assert half & {"Conv", "Relu"} and not half & {"Sqrt", "Div", "ReduceSum", "Clip"}


def test_a_weight_beyond_float16_is_refused_with_what_to_keep() -> None:
    model = copied(joined())
    name, weight = next((n, w) for n, w in constants(model.graph).items() if w.ndim == 4)
    set_constants(model.graph, {name: weight * 1e9})
    with pytest.raises(GateError, match="--keep"):
        halve(model, set(parts()))
    assert set(TASKS) <= set(run(halve(model, ()), {"image": images(1)}))
