from __future__ import annotations

import msgspec
import pytest

torch = pytest.importorskip("torch")

from torch import nn

from edgemtl.backbones import SegNet, Stage
from edgemtl.core.errors import UsageError
from edgemtl.tasks import Depth, Normals, Segmentation, Task

SEGMENTATION = Segmentation(classes=13)


def parameters(spec: SegNet, tasks: list[Task]) -> int:
    stages = spec.stages()
    modules = [stage.module for stage in stages] + [task.head(stages[-1].channels) for task in tasks]
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


@pytest.mark.parametrize(
    ("tasks", "published"),
    [([SEGMENTATION], 24_981_069), ([SEGMENTATION, Depth(), Normals()], 25_055_185)],
    ids=["one head", "three heads"],
)
def test_the_full_width_has_the_parameters_of_the_published_network(
    tasks: list[Task], published: int
) -> None:
    assert parameters(SegNet(decoder="unpool"), tasks) == published


def test_the_decoders_cost_the_same() -> None:
    small = SegNet(widths=(8, 16), convs=(1, 2))
    unpool = msgspec.structs.replace(small, decoder="unpool")
    assert parameters(small, [SEGMENTATION]) == parameters(unpool, [SEGMENTATION])


def test_stages_go_down_and_up_again() -> None:
    stages = SegNet(widths=(4, 8, 16), convs=(1, 2, 1)).stages()
    assert [(stage.name, stage.channels, stage.reduction) for stage in stages] == [
        ("encoder1", 4, 2),
        ("encoder2", 8, 4),
        ("encoder3", 16, 8),
        ("decoder3", 8, 4),
        ("decoder2", 4, 2),
        ("decoder1", 4, 1),
    ]
    convs = [sum(isinstance(m, nn.Conv2d) for m in stage.module.modules()) for stage in stages]
    assert convs == [1, 2, 1, 1, 2, 1]


def first_level(decoder: str) -> tuple[Stage, Stage]:
    """Encoder and decoder whose convolutions pass everything through."""
    encoder, restore = SegNet(widths=(3,), convs=(1,), decoder=decoder).stages()
    encoder.module.convs = restore.module.convs = nn.Identity()
    return encoder, restore


@pytest.mark.parametrize("size", [(4, 6), (5, 7)], ids=str)
def test_unpool_puts_each_maximum_back_where_it_was(size: tuple[int, int]) -> None:
    encoder, decoder = first_level("unpool")
    known = {"image": torch.rand(2, 3, *size)}
    known.update(encoder(encoder.module, known))
    restored = decoder(decoder.module, known)["decoder1"]
    assert restored.shape == known["image"].shape
    put_back = restored > 0
    assert put_back.sum() == known["encoder1"].numel()
    assert torch.equal(restored[put_back], known["image"][put_back])


@pytest.mark.parametrize("size", [(4, 6), (5, 7)], ids=str)
def test_resize_adds_the_feature_of_that_size(size: tuple[int, int]) -> None:
    encoder, decoder = first_level("resize")
    known = {"image": torch.rand(2, 3, *size)}
    known.update(encoder(encoder.module, known))
    added = decoder(decoder.module, known)["decoder1"] - known["image"]
    expected = nn.functional.interpolate(known["encoder1"], size=size, mode="nearest")
    torch.testing.assert_close(added, expected)


def test_widths_and_convs_go_together() -> None:
    with pytest.raises(
        UsageError, match=r"\$\.backbone\.convs: expected one number for each of the 2 widths"
    ):
        SegNet(widths=(4, 8), convs=(1, 1, 1))


@pytest.mark.parametrize("field", ["widths", "convs"])
@pytest.mark.parametrize("value", [[], [0], [4, -1]], ids=str)
def test_widths_and_convs_are_positive(field: str, value: list[int]) -> None:
    with pytest.raises(msgspec.ValidationError, match=field):
        msgspec.convert({"type": "segnet", field: value}, SegNet)
