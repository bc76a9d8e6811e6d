from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import numpy as np
import onnx
import onnxruntime
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgemtl.export.calibrate import calibrate
from edgemtl.export.equalize import correct_bias, equalize
from edgemtl.export.evaluate import evaluator
from edgemtl.export.graph import constants, extract
from edgemtl.export.int8 import (
    Activations,
    Range,
    activation_scale,
    quantize,
    quantized_tensors,
    round_weight,
)
from edgemtl.export.siblings import fuse_siblings
from tests.export.networks import SIZE, images, joined, parts, run, run_in_turn

SCHEMES: tuple[Activations, ...] = ("uint8", "int8")


@pytest.fixture(scope="module")
def ranges() -> dict[str, Range]:
    rounded = quantized_tensors(joined().graph, set(parts()), "uint8")
    return calibrate(joined(), rounded, images(4), "minmax").ranges


@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4), st.sampled_from(SCHEMES), st.floats(0, 1))
def test_a_value_in_the_range_is_off_by_half_a_step_at_most_and_zero_is_exact(
    a: float, b: float, activations: Activations, at: float
) -> None:
    lowest, highest = min(a, b), max(a, b)
    scale, zero_point = activation_scale(lowest, highest, activations)
    limits = np.iinfo(zero_point.dtype)

    def rounded(value: float) -> float:
        return float(
            (np.clip(np.rint(value / scale) + zero_point, limits.min, limits.max) - zero_point) * scale
        )

    assert rounded(0.0) == 0.0
    value = lowest + at * (highest - lowest)
    # Rounding the zero point itself may take another half step at the ends of the range.
    assert abs(rounded(value) - value) <= (0.501 if activations == "int8" else 1.001) * scale


@given(arrays(np.float32, (3, 2, 2), elements=st.floats(-100, 100, width=32)))
def test_a_weight_is_off_by_half_a_step_of_its_own_channel_at_most(weight: np.ndarray) -> None:
    rounded, scale = round_weight(weight)
    assert rounded.dtype == np.int8 and abs(rounded.astype(int)).max() <= 127
    error = np.abs(rounded * scale[:, None, None] - weight).max(axis=(1, 2))
    assert (error <= 0.501 * scale).all()


@pytest.mark.parametrize("activations", SCHEMES)
def test_the_files_of_both_layouts_compute_the_same(
    activations: Activations,
    ranges: dict[str, Range],
) -> None:
    """Also where some parts stay fp32: a tensor that crosses has the same values in both layouts."""
    for chosen in (set(parts()), {"trunk", "head_depth"}, set(parts()) - {"trunk"}, {"branch_depth_normals"}):
        merged = quantize(joined(), chosen, ranges, activations)
        split = {
            name: quantize(extract(joined(), file), chosen, ranges, activations)
            for name, file in parts().items()
        }
        for model in (merged, *split.values()):
            onnx.checker.check_model(model, full_check=True)
        # Without optimization: exact, for no kernel rounds in its own way.
        expected = run(merged, {"image": images(1, 7)}, optimize=False)
        found = run_in_turn(split, images(1, 7), optimize=False)
        for task, value in expected.items():
            np.testing.assert_allclose(found[task], value, atol=1e-5)


@pytest.mark.parametrize("activations", SCHEMES)
def test_int8_is_close_to_fp32_and_not_the_same(
    activations: Activations,
    ranges: dict[str, Range],
) -> None:
    exact = run(joined(), {"image": images(1)})
    for task, value in run(
        quantize(joined(), set(parts()), ranges, activations), {"image": images(1)}
    ).items():
        error = np.abs(value - exact[task]).max() / np.abs(exact[task]).max()
        assert 1e-6 < error < 0.15, task


def test_without_parts_nothing_changes(ranges: dict[str, Range]) -> None:
    assert quantize(joined(), (), ranges, "int8") == joined()


def test_what_tensorrt_asks_of_q_and_dq_holds(ranges: dict[str, Range]) -> None:
    """Zero points of 0, int8, a scale for each channel of a weight, no int32 bias."""
    graph = quantize(joined(), set(parts()), ranges, "int8").graph
    values = constants(graph)
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert values[node.input[2]].dtype == np.int8
            assert not values[node.input[2]].any()
        if node.op_type == "Conv":
            assert values[node.input[2]].dtype == np.float32
    dequantized = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    for conv in (node for node in graph.node if node.op_type == "Conv"):
        weight = dequantized[conv.input[1]]
        assert values[weight.input[0]].dtype == np.int8
        assert values[weight.input[1]].shape == values[weight.input[0]].shape[:1]
        assert conv.input[0] in dequantized


@pytest.mark.parametrize("activations", SCHEMES)
def test_what_follows_the_last_convolution_stays_fp32(
    activations: Activations, ranges: dict[str, Range]
) -> None:
    found = run(quantize(joined(), set(parts()), ranges, activations), {"image": images(1)})
    np.testing.assert_allclose(np.linalg.norm(found["normals"], axis=1), 1, atol=1e-5)
    # TensorRT writes floats from integers; ONNX Runtime does not.
    assert (len(np.unique(found["depth"])) > 256) == (activations == "int8")


def test_onnx_runtime_runs_every_convolution_in_integers(ranges: dict[str, Range], tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    model = quantize(joined(), set(parts()), ranges, "uint8")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    convolutions = sum(node.op_type == "Conv" for node in joined().graph.node)
    assert kinds.count("QLinearConv") == convolutions
    assert kinds.count("Conv") == 0


def convolution(reads: str, weight: str, writes: str) -> NodeProto:
    return helper.make_node(
        "Conv", [reads, weight, "trunk/b"], [writes], name=f"trunk/{writes}", pads=[1] * 4
    )


def called_twice() -> ModelProto:
    """A convolution whose result it reads again, as a shared block does."""
    return model_of(
        convolution("image", "trunk/w", "trunk/once"), convolution("trunk/once", "trunk/w", "task")
    )


def of_computed_weight() -> ModelProto:
    """A convolution whose weight depends on the image, as in dynamic convolutions, between two others."""
    return model_of(
        convolution("image", "trunk/w", "trunk/first"),
        helper.make_node("ReduceMax", ["image"], ["trunk/most"], name="trunk/most", keepdims=1),
        helper.make_node("Mul", ["trunk/w", "trunk/most"], ["trunk/computed"], name="trunk/computed"),
        convolution("trunk/first", "trunk/computed", "trunk/second"),
        convolution("trunk/second", "trunk/w", "task"),
    )


def model_of(*nodes: NodeProto) -> ModelProto:
    random = np.random.default_rng(0)
    values = {"trunk/w": random.normal(0, 0.3, (3, 3, 3, 3)), "trunk/b": random.normal(0, 1, 3)}
    graph = helper.make_graph(
        list(nodes),
        "merged",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, *SIZE])],
        [helper.make_tensor_value_info("task", TensorProto.FLOAT, [1, 3, *SIZE])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_convolution_whose_weight_is_computed_stays_fp32(scheme: Activations) -> None:
    model = of_computed_weight()
    rounded = quantized_tensors(model.graph, {"trunk"}, scheme)
    assert "trunk/first" not in rounded
    calibration = calibrate(model, rounded, images(4), "minmax")
    corrected = correct_bias(equalize(model), {"trunk"}, calibration.means)
    found = fuse_siblings(quantize(corrected, {"trunk"}, calibration.ranges, scheme))
    dequantized = {node.output[0] for node in found.graph.node if node.op_type == "DequantizeLinear"}
    weights = [node.input[1] in dequantized for node in found.graph.node if node.op_type == "Conv"]
    assert weights == [True, False, True]
    feeds = {"image": images(1)}
    expected, value = run(model, feeds)["task"], run(found, feeds, optimize=False)["task"]
    assert 0 < np.abs(value - expected).max() < 0.05 * np.abs(expected).max()


def test_a_layer_that_is_called_twice_is_rounded_alike_and_runs() -> None:
    model = called_twice()
    calibration = calibrate(model, quantized_tensors(model.graph, {"trunk"}, "int8"), images(4), "minmax")
    corrected = correct_bias(model, {"trunk"}, calibration.means)
    np.testing.assert_array_equal(constants(corrected.graph)["trunk/b"], constants(model.graph)["trunk/b"])
    feeds = {"image": images(1)}
    expected = run(model, feeds)["task"]
    rounded = quantize(corrected, {"trunk"}, calibration.ranges, "int8")
    found = run(rounded, feeds, optimize=False)["task"]
    np.testing.assert_allclose(evaluator(rounded)(feeds)["task"], found, atol=1e-2)  # as the runner opens it
    assert 0 < np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
