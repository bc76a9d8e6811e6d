from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper

from edgemtl.export.calibrate import calibrate
from edgemtl.export.graph import constant, copied
from edgemtl.export.int8 import quantize, quantized_tensors
from edgemtl.export.upsampling import gather_upsampling
from tests.export.networks import images, joined, parts, run

WORDS = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


def upsampler(
    size: tuple[int, int],
    factors: tuple[float, float] = (2, 2),
    scales: tuple[float, float] = (0.01, 0.01),
    words: dict[str, str] = WORDS,
    *,
    batch: int | str = 1,
    known: bool = True,
) -> ModelProto:
    """Round, resize, round: as in a network in 8 bits."""
    values = [
        constant("first", np.float32(scales[0])),
        constant("second", np.float32(scales[1])),
        constant("zero", np.uint8(3)),
        constant("factors", np.array([1, 1, *factors], np.float32)),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "first", "zero"], ["a"]),
        helper.make_node("DequantizeLinear", ["a", "first", "zero"], ["b"]),
        helper.make_node("Resize", ["b", "", "factors"], ["c"], name="resize", **words),
        helper.make_node("QuantizeLinear", ["c", "second", "zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["d", "second", "zero"], ["out"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 5, *shape])
        for name, shape in (("image", size), ("out", (None, None)))
    ]
    if not known:
        ends.insert(1, helper.make_tensor_value_info("factors", TensorProto.FLOAT, [4]))
        del values[-1]
    graph = helper.make_graph(nodes, "upsampler", ends[:-1], ends[-1:], values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def kinds(model: ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


@settings(deadline=None)  # sessions
@given(
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    factors=st.tuples(st.sampled_from([1, 2, 3]), st.sampled_from([1, 2, 4])),
    free=st.booleans(),
)
def test_gathers_are_the_resize_bit_for_bit(
    size: tuple[int, int], factors: tuple[int, int], free: bool
) -> None:
    before = upsampler(size, factors, batch="batch" if free else 1)
    after = gather_upsampling(before)
    onnx.checker.check_model(after, full_check=True)
    assert "Resize" not in kinds(after)
    feeds = {"image": np.random.default_rng(0).random((2 if free else 1, 5, *size), np.float32)}
    np.testing.assert_array_equal(run(after, feeds)["out"], run(before, feeds)["out"])


@pytest.mark.parametrize(
    "model",
    [
        upsampler((4, 6), (2.25, 2)),
        upsampler((4, 6), scales=(0.01, 0.02)),
        upsampler((4, 6), known=False),
        upsampler((4, 6), words={"mode": "linear"}),
        upsampler((4, 6), words={**WORDS, "nearest_mode": "ceil"}),
        upsampler((4, 6), words={**WORDS, "coordinate_transformation_mode": "half_pixel"}),
    ],
    ids=["no whole factor", "rounded otherwise", "to an unknown size", "linear", "ceil", "half_pixel"],
)
def test_what_gathers_would_not_compute_alike_stays(model: ModelProto) -> None:
    assert gather_upsampling(model) == model


def test_what_leaves_the_file_stays() -> None:
    model = upsampler((4, 6))
    for name in "bc":
        odd = copied(model)
        odd.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 5, None, None]))
        onnx.checker.check_model(gather_upsampling(odd), full_check=True)


def test_two_of_one_tensor_are_replaced_and_the_tensor_is_kept_for_both() -> None:
    model = upsampler((4, 6))
    again = [copied_node(node) for node in model.graph.node[2:]]
    model.graph.node.extend(again)
    model.graph.output.append(helper.make_tensor_value_info("out/2", TensorProto.FLOAT, [1, 5, None, None]))
    feeds = {"image": np.random.default_rng(0).random((1, 5, 4, 6), np.float32)}
    after = gather_upsampling(model)
    onnx.checker.check_model(after, full_check=True)
    for name, value in run(model, feeds).items():
        np.testing.assert_array_equal(run(after, feeds)[name], value)


def copied_node(node: NodeProto) -> NodeProto:
    """The same on tensors of its own behind the first."""
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.name = f"{node.op_type}/{node.input[0]}/2"
    copy.output[0] += "/2"
    if node.op_type != "Resize":
        copy.input[0] += "/2"
    return copy


def test_floats_stay() -> None:
    assert gather_upsampling(joined()) == joined()


def test_a_network_in_integers_computes_the_same() -> None:
    rounded = quantized_tensors(joined().graph, set(parts()), "uint8")
    ranges = calibrate(joined(), rounded, images(4), "minmax").ranges
    before = quantize(joined(), set(parts()), ranges, "uint8")
    after = gather_upsampling(before)
    onnx.checker.check_model(after, full_check=True)
    assert "Gather" in kinds(after)
    expected = run(before, {"image": images(1)}, optimize=False)
    for task, value in run(after, {"image": images(1)}, optimize=False).items():
        np.testing.assert_array_equal(value, expected[task])
