"""What every backbone promises, for each member of BackboneSpec; an image of even and of odd size."""

from __future__ import annotations

from collections import OrderedDict
from typing import get_args

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn

from edgemtl.backbones import Backbone, BackboneSpec, Module, ResNet, SegNet, Stage, Timm
from edgemtl.backbones.base import IMAGE
from edgemtl.core.errors import SetupError


def network() -> nn.Sequential:
    """A user's own network."""
    return nn.Sequential(
        OrderedDict(
            first=nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
            second=nn.Conv2d(8, 6, 1, stride=2),
        )
    )


# Where a field has no default, or where one example leaves a path untried.
EXAMPLES: dict[type[Backbone], list[Backbone]] = {
    SegNet: [SegNet(widths=(4, 6, 8), convs=(1, 2, 1), decoder=decoder) for decoder in ("resize", "unpool")],
    ResNet: [ResNet(depth=18, width=8), ResNet(depth=50, width=8)],
    Timm: [Timm(model="mobilenetv3_small_050", width=8)],
    Module: [Module(factory=f"{__name__}:network")],
}


@pytest.fixture(
    params=[spec for member in get_args(BackboneSpec) for spec in EXAMPLES.get(member) or [member()]],
    ids=str,
    scope="module",
)
def spec(request: pytest.FixtureRequest) -> Backbone:
    try:
        request.param.stages()
    except SetupError as error:
        pytest.skip(str(error))
    return request.param


@pytest.fixture(scope="module")
def stages(spec: Backbone) -> tuple[Stage, ...]:
    torch.manual_seed(0)
    return spec.stages()


def images(size: tuple[int, int], batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(1))


def features(stages: tuple[Stage, ...], image: Tensor) -> dict[str, Tensor]:
    """Everything that the stages write, in eval mode."""
    known = {IMAGE: image}
    for stage in stages:
        known.update(stage(stage.module.eval(), known))
    return known


def test_a_stage_reads_only_what_is_there_and_writes_what_is_not(stages: tuple[Stage, ...]) -> None:
    known = {IMAGE}
    for stage in stages:
        assert set(stage.reads) <= known
        assert known.isdisjoint(stage.writes)
        assert "." not in stage.name, "it becomes the name of a module"
        known.update(stage.writes)


def test_reductions_are_exact_where_the_size_allows(stages: tuple[Stage, ...]) -> None:
    found = features(stages, images((64, 96)))
    for stage in stages:
        expected = (2, stage.channels, 64 // stage.reduction, 96 // stage.reduction)
        assert found[stage.name].shape == expected


@pytest.mark.parametrize("size", [(65, 97), (71, 83)], ids=str)
def test_odd_sizes_are_halved_up_or_down(stages: tuple[Stage, ...], size: tuple[int, int]) -> None:
    found = features(stages, images(size))
    for stage in stages:
        batch, channels, *shape = found[stage.name].shape
        assert (batch, channels) == (2, stage.channels)
        for length, side in zip(size, shape, strict=True):
            assert length // stage.reduction <= side <= -(-length // stage.reduction)


def test_extras_are_tensors_of_the_batch(stages: tuple[Stage, ...]) -> None:
    found = features(stages, images((64, 96), batch=3))
    for stage in stages:
        assert [found[name].shape[0] for name in stage.extras] == [3] * len(stage.extras)


def test_an_image_does_not_depend_on_the_others_of_its_batch(stages: tuple[Stage, ...]) -> None:
    image, last = images((64, 96)), stages[-1].name
    together, alone = features(stages, image)[last], features(stages, image[:1])[last]
    torch.testing.assert_close(alone, together[:1], rtol=1e-4, atol=1e-5)


def test_the_gradient_reaches_every_parameter(stages: tuple[Stage, ...]) -> None:
    feature = features(stages, images((64, 96)))[stages[-1].name]
    (feature * torch.randn_like(feature)).sum().backward()
    for stage in stages:
        for name, parameter in stage.module.named_parameters():
            assert parameter.grad is not None and parameter.grad.any(), f"{stage.name}.{name}"
            parameter.grad = None


def test_the_seed_decides_and_nothing_is_shared(spec: Backbone) -> None:
    runs = []
    for seed in 0, 0, 1:
        torch.manual_seed(seed)
        runs.append({f"{s.name}.{k}": v for s in spec.stages() for k, v in s.module.state_dict().items()})
    first, again, other = runs
    assert list(first) == list(again) == list(other)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not all(torch.equal(value, other[name]) for name, value in first.items())
    assert {v.data_ptr() for v in first.values()}.isdisjoint(v.data_ptr() for v in again.values())


def test_the_last_stage_is_what_heads_read(stages: tuple[Stage, ...]) -> None:
    written = {stage.name for stage in stages}
    unread = written - {name for stage in stages for name in stage.reads}
    assert unread == {stages[-1].name}, "a stage that nothing reads is computed for nothing"
