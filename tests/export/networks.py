"""Small collapsed networks as ONNX parts, for the tests of precision."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from edgemtl.backbones import Backbone, SegNet
from edgemtl.collapse import collapse
from edgemtl.core.plan import SharingPlan
from edgemtl.export.graph import join
from edgemtl.export.onnx import write_models
from edgemtl.kernels import Factorized, KernelMethod
from edgemtl.model import MultitaskModel
from tests.contracts.networks import TASKS

Array = NDArray[Any]

SIZE = (20, 26)
FORKS = {"encoder2": [["segmentation"], ["depth", "normals"]]}
PLANS: dict[str, dict[str, list[list[str]]]] = {
    "trunk": {},
    # Branches that read skip connections over a fork, and a branch that forks again.
    "forked": {
        "encoder2": [["segmentation"], ["depth", "normals"]],
        "decoder1": [["segmentation"], ["depth"], ["normals"]],
    },
    "separate": {"encoder1": [["segmentation"], ["depth"], ["normals"]]},
}


def forked(
    backbone: Backbone, forks: dict[str, list[list[str]]], kernel: KernelMethod | None = None
) -> MultitaskModel:
    """Fresh, in training mode."""
    stages = backbone.stages()
    names = tuple(stage.name for stage in stages)
    return MultitaskModel(stages, TASKS, SharingPlan.forked(tuple(TASKS), names, forks), kernel)


def network() -> MultitaskModel:
    """Collapsed; branches that read skips over a fork; channels of unlike ranges, as folding leaves them."""
    torch.manual_seed(0)
    model = forked(SegNet(widths=(8, 12), convs=(1, 2)), FORKS)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.1, 3)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    for _ in range(3):
        model(torch.rand(2, 3, *SIZE))
    return collapse(model, SIZE).model


def of_plan(plan: str, size: tuple[int, int]) -> MultitaskModel:
    """Collapsed, of factorized kernels, forked as ``PLANS`` says."""
    torch.manual_seed(0)
    model = forked(SegNet(widths=(4, 6, 8), convs=(1, 1, 1)), PLANS[plan], Factorized())
    for _ in range(2):
        model(torch.rand(2, 3, *size))
    return collapse(model, size).model


@cache
def parts(batch: int = 1) -> dict[str, ModelProto]:
    """The fp32 files of the split layout, by name. Exporting takes seconds: copy what you change."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = write_models(network(), folder, layouts=("split",), size=SIZE, batch=(batch, batch), opset=18)
        return {file.name: onnx.load(folder / file.path) for file in files["split"]}


@cache
def joined(batch: int = 1) -> ModelProto:
    """All parts as one graph."""
    return join(parts(batch), tuple(TASKS))


def images(count: int, seed: int = 0) -> Array:
    """Float32 [count, 3, *SIZE] in 0..1."""
    return np.random.default_rng(seed).random((count, 3, *SIZE), np.float32)


def run(model: ModelProto, feeds: dict[str, Array], *, optimize: bool = True) -> dict[str, Array]:
    """The outputs of a model by name, for what it needs of ``feeds``."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(
        zip(names, session.run(names, {i.name: feeds[i.name] for i in session.get_inputs()}), strict=True)
    )


def run_in_turn(files: dict[str, ModelProto], image: Array, *, optimize: bool = True) -> dict[str, Array]:
    """All tensors that files leave, each reading what the ones before it wrote."""
    tensors = {"image": image}
    for model in files.values():
        tensors |= run(model, tensors, optimize=optimize)
    return tensors
