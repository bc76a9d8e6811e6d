from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import numpy as np
import onnx

from edgemtl.backbones import chain
from edgemtl.collapse import collapse
from edgemtl.core.bundle import ModelFile
from edgemtl.export.graph import constants
from edgemtl.export.heads import join_heads
from edgemtl.export.onnx import write_models
from edgemtl.export.siblings import fuse_siblings
from edgemtl.model import MultitaskModel
from edgemtl.tasks import Depth, Normals, Segmentation
from tests.export.networks import SIZE, network, run


@pytest.fixture(params=[(1, 1), (1, 4)], ids=["fixed", "free"])
def split(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[ModelFile, ...]:
    """The files of a network, in ``tmp_path``: two heads share a branch, the third has one."""
    layouts = write_models(network(), tmp_path, layouts=("split",), size=SIZE, batch=request.param, opset=18)
    return layouts["split"]


def test_heads_of_one_feature_are_joined_and_a_single_head_is_not(
    split: tuple[ModelFile, ...], tmp_path: Path
) -> None:
    (joint,) = join_heads(tmp_path, split)
    heads = {file.name: file for file in split if file.name.startswith("head_")}
    assert (joint.name, joint.tasks) == ("heads_branch_depth_normals", ("depth", "normals"))
    assert joint.joins == ("head_depth", "head_normals")
    assert joint.macs == sum(heads[name].macs for name in joint.joins)
    assert joint.channels == 1 + 3
    assert joint.parameters == sum(heads[name].parameters for name in joint.joins)
    assert joint.inputs == heads["head_depth"].inputs
    assert joint.outputs == heads["head_depth"].outputs + heads["head_normals"].outputs


@pytest.mark.parametrize("classes", [13, 16, 32])
def test_its_channels_are_those_of_the_widest_convolution_that_its_heads_become(
    classes: int, tmp_path: Path
) -> None:
    """Heads of 16 and 32 channels fill their blocks, and stay alone."""
    tasks = {"segmentation": Segmentation(classes=classes), "depth": Depth(), "normals": Normals()}
    model = collapse(MultitaskModel(chain(only=torch.nn.Conv2d(3, 32, 1)), tasks), SIZE).model
    files = write_models(model, tmp_path, layouts=("split",), size=SIZE, batch=(1, 1), opset=18)["split"]
    (joint,) = join_heads(tmp_path, files)
    fused = fuse_siblings(onnx.load(tmp_path / joint.path)).graph
    convs = [node for node in fused.node if node.op_type == "Conv"]
    assert max(constants(fused)[conv.input[1]].shape[0] for conv in convs) == joint.channels
    assert joint.channels == (17 if classes == 13 else classes)


def test_it_computes_what_they_do(split: tuple[ModelFile, ...], tmp_path: Path) -> None:
    (joint,) = join_heads(tmp_path, split)
    model = onnx.load(tmp_path / joint.path)
    onnx.checker.check_model(model, full_check=True)
    assert [info.name for info in model.graph.output] == ["depth", "normals"]
    (feature,) = joint.inputs
    feeds = {feature.name: np.random.default_rng(0).random((1, *feature.shape[1:]), np.float32)}
    found = run(model, feeds)
    for name in joint.joins:
        for task, value in run(onnx.load(tmp_path / f"{name}.onnx"), feeds).items():
            np.testing.assert_allclose(found[task], value, atol=1e-6)
