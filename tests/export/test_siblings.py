from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper

from edgemtl.export.calibrate import calibrate
from edgemtl.export.graph import constant, constants, copied, readers
from edgemtl.export.int8 import quantize, quantized_tensors
from edgemtl.export.siblings import fuse_siblings
from tests.export.networks import images, joined, parts, run


def quantized() -> ModelProto:
    rounded = quantized_tensors(joined().graph, set(parts()), "uint8")
    ranges = calibrate(joined(), rounded, images(4), "minmax").ranges
    return quantize(joined(), set(parts()), ranges, "uint8")


def convolutions(model: ModelProto) -> list[NodeProto]:
    return [node for node in model.graph.node if node.op_type == "Conv"]


def test_siblings_become_one_that_computes_the_same() -> None:
    fused = fuse_siblings(joined())
    onnx.checker.check_model(fused, full_check=True)
    expected = run(joined(), {"image": images(1)})
    for task, value in run(fused, {"image": images(1)}).items():
        np.testing.assert_allclose(value, expected[task], atol=1e-6)
    # The heads of depth and normals read one branch; at the fork, branches read one trunk.
    assert any({"head_depth", "head_normals"} <= parts_of(conv) for conv in convolutions(fused))
    assert any(
        {"branch_segmentation", "branch_depth_normals"} <= parts_of(conv) for conv in convolutions(fused)
    )


def parts_of(conv: NodeProto) -> set[str]:
    return {name.partition("/")[0] for name in conv.name.split("+")}


def test_integers_stay_what_they_were() -> None:
    """Without optimization, which would round biases too. A half may fall to either side."""
    exact, fused = quantized(), fuse_siblings(quantized())
    onnx.checker.check_model(fused, full_check=True)
    assert len(convolutions(fused)) < len(convolutions(exact))
    expected = run(exact, {"image": images(1)}, optimize=False)
    found = run(fused, {"image": images(1)}, optimize=False)
    values = constants(exact.graph)
    for task in ("segmentation", "depth"):
        steps = np.abs(found[task] - expected[task]) / values[f"{task}/scale"]
        assert steps.max() < 1.01 and (steps > 0.5).mean() < 0.01, task


def test_joined_channels_in_integers_are_a_multiple_of_four() -> None:
    """As kernels want them; nobody reads what is too many."""
    fused = fuse_siblings(quantized())
    read = readers(fused.graph)
    joints = [node for node in fused.graph.node if node.op_type == "Split"]
    assert joints
    for node in joints:
        assert constants(fused.graph)[node.input[1]].sum() % 4 == 0
        assert all(name not in read for name in node.output if name.endswith("/unused"))


def test_what_is_not_alike_stays_apart() -> None:
    """Another input, kernel size or stride, groups, or blocks of channels that are full already."""
    rng = np.random.default_rng(0)

    def conv(
        index: int, out: int, reads: str = "image", size: int = 3, groups: int = 1, stride: int = 1
    ) -> None:
        weight = rng.normal(size=(out, 6 // groups, size, size)).astype(np.float32)
        graph.initializer.extend([constant(f"w{index}", weight), constant(f"b{index}", weight[:, 0, 0, 0])])
        graph.node.append(
            helper.make_node(
                "Conv",
                [reads, f"w{index}", f"b{index}"],
                [f"y{index}"],
                name=f"n{index}",
                pads=[size // 2] * 4,
                group=groups,
                strides=[stride, stride],
            )
        )
        graph.output.append(
            helper.make_tensor_value_info(f"y{index}", onnx.TensorProto.FLOAT, [1, out, None, None])
        )

    graph = onnx.GraphProto(name="graph")
    graph.input.append(helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 6, 8, 8]))
    conv(0, 6)
    conv(1, 3, reads="y0")
    conv(2, 3, size=1)
    conv(3, 3, stride=2)
    conv(4, 6, groups=2)
    conv(5, 6, groups=2)
    conv(6, 16)
    conv(7, 16)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    assert fuse_siblings(model) == model
    conv(8, 3)
    assert len(convolutions(fuse_siblings(model))) == 8
    image = rng.normal(size=(1, 6, 8, 8)).astype(np.float32)
    expected, found = (run(each, {"image": image}) for each in (model, fuse_siblings(model)))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5)


def test_the_model_given_is_not_changed() -> None:
    before = copied(joined())
    fuse_siblings(joined())
    assert joined() == before
