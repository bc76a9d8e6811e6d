from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import numpy as np
import onnx
import onnxruntime

from edgemtl.backbones import SegNet, Stage, chain
from edgemtl.collapse import collapse
from edgemtl.core.errors import UsageError
from edgemtl.core.plan import SharingPlan
from edgemtl.export.onnx import cuts, write_models
from edgemtl.kernels import Factorized
from edgemtl.model import MultitaskModel, macs_of, parameters_of
from tests.export.networks import TASKS, forked

SIZE = (21, 26)
FORKS: dict[str, dict[str, list[list[str]]]] = {
    "trunk": {},
    # Branches that read skip connections over a fork, and a branch that forks again.
    "forked": {
        "encoder2": [["segmentation"], ["depth", "normals"]],
        "decoder1": [["segmentation"], ["depth"], ["normals"]],
    },
    "separate": {"encoder1": [["segmentation"], ["depth"], ["normals"]]},
}


def collapsed(plan: str) -> MultitaskModel:
    torch.manual_seed(0)
    model = forked(SegNet(widths=(4, 6, 8), convs=(1, 1, 1)), FORKS[plan], Factorized())
    for _ in range(2):
        model(torch.rand(2, 3, *SIZE))
    return collapse(model, SIZE).model


def run(path: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    inputs = {i.name: feeds[i.name] for i in session.get_inputs()}
    return dict(zip(names, session.run(names, inputs), strict=True))


@pytest.mark.parametrize("plan", FORKS)
def test_the_parts_together_are_the_whole(plan: str) -> None:
    """Property of every cut: parts read what parts before them wrote, and lose no parameter and no MAC."""
    model = collapsed(plan)
    image = torch.rand(1, 3, *SIZE)
    tensors, parameters, macs = {"image": image}, 0, 0
    for cut in cuts(model, "split", SIZE):
        inputs = [tensors[name] for name in cut.reads]
        tensors.update(zip(cut.writes, cut.module(*inputs), strict=True))
        parameters += parameters_of(cut.module)
        macs += macs_of(cut.module, *inputs)
    for task, expected in model(image).items():
        assert torch.equal(tensors[task], expected)
    assert parameters == parameters_of(model)
    assert macs == macs_of(model, image)


@pytest.mark.parametrize("plan", FORKS)
def test_a_part_writes_nothing_that_nobody_reads(plan: str) -> None:
    parts = list(cuts(collapsed(plan), "split", SIZE))
    read = {name for part in parts for name in part.reads}
    assert {name for part in parts for name in part.writes} == read - {"image"} | set(TASKS)


class AskingForItsBatch(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ones = torch.ones(x.shape[0], 1, 1, 1) * x.flatten(1).mean(1).reshape(-1, 1, 1, 1)
        return (x.reshape(x.shape[0], -1) + x.shape[0]).reshape(x.shape) + ones


def with_names_for_one_value() -> MultitaskModel:
    """The trunk writes one value under two names, branches begin and end with what they read, and a branch
    wants to know the batch, which the exporter asks of the image."""
    conv, same, asking = torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Identity(), AskingForItsBatch()
    stages = (
        Stage("first", conv, ("image",), 4, 1),
        Stage("second", torch.nn.Dropout(), ("first",), 4, 1),
        Stage("third", _Sum(), ("first", "second", "image"), 4, 1),
        Stage("fourth", same, ("third",), 4, 1),
        Stage("fifth", asking, ("fourth",), 4, 1),
        Stage("sixth", same, ("fifth",), 4, 1),
    )
    forks = {
        "third": [["segmentation"], ["depth", "normals"]],
        "fourth": [["segmentation"], ["depth"], ["normals"]],
    }
    plan = SharingPlan.forked(tuple(TASKS), tuple(stage.name for stage in stages), forks)
    return MultitaskModel(stages, TASKS, plan).eval()


class _Sum(torch.nn.Module):
    def forward(self, first: torch.Tensor, second: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return first * second + image.mean(1, keepdim=True)


NETWORKS = {"forked": partial(collapsed, "forked"), "aliases": with_names_for_one_value}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("batch", [(1, 1), (1, 3)], ids=["static", "dynamic"])
def test_the_files_compute_what_the_network_does(
    network: str, batch: tuple[int, int], tmp_path: Path
) -> None:
    model = NETWORKS[network]()
    layouts = write_models(model, tmp_path, layouts=("merged", "split"), size=SIZE, batch=batch, opset=18)
    assert set(layouts) == {"merged", "split"}
    for size in range(batch[0], batch[1] + 1):
        image = torch.rand(size, 3, *SIZE)
        expected = model(image)
        for files in layouts.values():
            tensors = {"image": image.numpy()}
            for file in files:
                tensors |= run(tmp_path / file.path, tensors)
            for task, value in expected.items():
                np.testing.assert_allclose(tensors[task], value.detach().numpy(), rtol=1e-4, atol=1e-5)


class FixingItsBatch(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + len(x)


def test_a_network_that_fixes_its_batch_is_refused_a_free_one(tmp_path: Path) -> None:
    stages = chain(first=torch.nn.Conv2d(3, 4, 3), last=FixingItsBatch())
    model = MultitaskModel(stages, TASKS).eval()
    with pytest.raises(UsageError, match=r"takes batches of 1 to 3, found one that takes 3 alone"):
        write_models(model, tmp_path, layouts=("merged",), size=SIZE, batch=(1, 3), opset=18)
    assert not list(tmp_path.iterdir())
    assert write_models(model, tmp_path, layouts=("merged",), size=SIZE, batch=(3, 3), opset=18)


def test_files_say_what_they_read_and_write(tmp_path: Path) -> None:
    model = collapsed("trunk")
    layouts = write_models(model, tmp_path, layouts=("merged", "split"), size=SIZE, batch=(2, 2), opset=18)
    (merged,) = layouts["merged"]
    assert [t.name for t in merged.outputs] == list(TASKS)
    assert merged.outputs[0].shape == (2, 5, *SIZE)
    assert [f.name for f in layouts["split"]] == ["trunk", *(f"head_{task}" for task in TASKS)]
    for files in layouts.values():
        for file in files:
            proto = onnx.load(tmp_path / file.path)
            onnx.checker.check_model(proto, full_check=True)
            assert {i.domain: i.version for i in proto.opset_import}[""] == 18
            assert [value.name for value in proto.graph.input] == [t.name for t in file.inputs]
            assert [value.name for value in proto.graph.output] == [t.name for t in file.outputs]
            assert not {node.op_type for node in proto.graph.node} & {"BatchNormalization", "MaxUnpool"}
    assert len(list(tmp_path.iterdir())) == 5
