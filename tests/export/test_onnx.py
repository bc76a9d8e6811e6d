from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import numpy as np
import onnx
import onnxruntime

from edgemtl.backbones import Stage, chain
from edgemtl.core.errors import GateError, UsageError
from edgemtl.core.plan import SharingPlan
from edgemtl.export.graph import constants, set_constants
from edgemtl.export.onnx import write_models
from edgemtl.model import MultitaskModel
from tests.export.networks import TASKS, of_plan

SIZE = (21, 26)


def run(path: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    inputs = {i.name: feeds[i.name] for i in session.get_inputs()}
    return dict(zip(names, session.run(names, inputs), strict=True))


class Calling(torch.nn.Module):
    """A stage of a function."""

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *features: torch.Tensor) -> object:
        return self.function(*features)


def conv(inputs: int = 3) -> torch.nn.Conv2d:
    return torch.nn.Conv2d(inputs, 4, 3, padding=1)


def four(image: torch.Tensor) -> torch.Tensor:
    """Channels."""
    return torch.cat([image, image[:, :1]], 1)


def staged(forks: dict[str, list[list[str]]], *stages: tuple[object, ...]) -> MultitaskModel:
    """Stages first, second, ... of a module or function, what it reads, and its extras."""
    names = ("first", "second", "third", "fourth", "fifth", "sixth")[: len(stages)]
    built = [
        Stage(name, part if isinstance(part, torch.nn.Module) else Calling(part), reads, 4, 1, *extras)
        for name, (part, reads, *extras) in zip(names, stages, strict=True)
    ]
    torch.manual_seed(0)
    return MultitaskModel(built, TASKS, SharingPlan.forked(tuple(TASKS), names, forks)).eval()


EACH = [["segmentation"], ["depth"], ["normals"]]
TWO = [["segmentation"], ["depth", "normals"]]
DROPOUT = torch.nn.Dropout()
# What PyTorch, asked for all parts at once, could write across a cut, or asks of the image.
NETWORKS: dict[str, Callable[[], MultitaskModel]] = {
    "skips": partial(of_plan, "forked", SIZE),
    "names for one value": lambda: staged(
        {"third": TWO, "fourth": EACH},
        (conv(), ("image",)),
        (DROPOUT, ("first",)),
        (lambda a, b, image: a * b + image.mean(1, keepdim=True), ("first", "second", "image")),
        (DROPOUT, ("third",)),
        (torch.nn.Identity(), ("fourth",)),
    ),
    "the batch": lambda: staged(
        {"second": EACH},
        (conv(), ("image",)),
        (lambda a: (a.reshape(a.shape[0], -1) + a.shape[0]).reshape(a.shape), ("first",)),
        (lambda a: a + torch.ones(a.shape[0], 1, 1, 1) * a.mean((1, 2, 3), keepdim=True), ("second",)),
    ),
    "padding": lambda: staged(
        {"third": EACH}, (conv(), ("image",)), (torch.nn.ZeroPad2d(1), ("first",)), (conv(4), ("second",))
    ),
    "equal nodes": lambda: staged(
        {"third": EACH},
        (conv(), ("image",)),
        (lambda a: (a.relu(), a.chunk(2, 1)[0]), ("first",), ("half",)),
        (lambda a, half: torch.cat([a.chunk(2, 1)[1], half], 1), ("first", "half")),
    ),
    "constants": lambda: staged(
        {"third": EACH},
        (conv(), ("image",)),
        (lambda a: (a.relu(), torch.zeros(a.shape[0], 4, *SIZE), a > 0), ("first",), ("zeros", "mask")),
        (lambda a, zeros, mask: torch.where(mask, a, zeros - 1), ("second", "zeros", "mask")),
    ),
    "in place": lambda: staged(
        {"second": EACH},
        (conv(), ("image",)),
        (torch.nn.ReLU(inplace=True), ("first",)),
        (conv(4), ("second",)),
    ),
}


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


@pytest.mark.parametrize(
    ("where", "stages"),
    [
        ("image", [(lambda a: four(a) + len(a), ("image",))]),
        (
            "trunk.tokens",
            [
                (lambda a: (four(a), a.flatten(2).permute(2, 0, 1)), ("image",), ("tokens",)),
                (lambda t, a: a * a.shape[0] + t.mean(), ("tokens", "first")),
            ],
        ),
    ],
)
def test_a_free_batch_is_the_first_axis_of_all(
    where: str, stages: list[tuple[object, ...]], tmp_path: Path
) -> None:
    model = staged({"second": EACH} if len(stages) > 1 else {}, *stages)
    with pytest.raises(UsageError, match=rf"{where}: expected a first axis of 1 to 3 images"):
        write_models(model, tmp_path, layouts=("merged",), size=SIZE, batch=(1, 3), opset=18)
    assert not list(tmp_path.iterdir())
    assert write_models(model, tmp_path, layouts=("split",), size=SIZE, batch=(3, 3), opset=18)


def test_a_task_named_like_a_tensor_inside_is_refused(tmp_path: Path) -> None:
    model = MultitaskModel(chain(first=conv(), last=torch.nn.ReLU()), {"relu": TASKS["depth"]}).eval()
    with pytest.raises(UsageError, match=r"task `relu`: expected a name .* Rename the task"):
        write_models(model, tmp_path, layouts=("merged",), size=SIZE, batch=(1, 1), opset=18)


def test_what_pytorch_cannot_export_is_said_in_a_line(tmp_path: Path) -> None:
    model = staged({}, (lambda a: four(a) if a.mean() > 0 else four(-a), ("image",)))
    with pytest.raises(UsageError, match="network: expected one that PyTorch can export") as caught:
        write_models(model, tmp_path, layouts=("merged",), size=SIZE, batch=(1, 1), opset=18)
    assert "\n" not in str(caught.value)


def test_a_file_that_computes_something_else_is_a_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(model: onnx.ModelProto, _: int) -> onnx.ModelProto:
        set_constants(model.graph, {name: 2 * a for name, a in constants(model.graph).items() if a.ndim == 4})
        return model

    monkeypatch.setattr("edgemtl.export.onnx._lowered", spoiled)
    with pytest.raises(GateError, match=r"merged\.onnx segmentation: expected what the network computes"):
        write_models(of_plan("trunk", SIZE), tmp_path, layouts=("merged",), size=SIZE, batch=(1, 1), opset=18)


def test_files_say_what_they_read_and_write(tmp_path: Path) -> None:
    model = of_plan("trunk", SIZE)
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
