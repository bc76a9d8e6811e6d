"""A light feature pyramid (after Lin et al. 2017): turns the features of an encoder into decoder stages."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from edgemtl.backbones.base import ConvNormAct, Stage


class Level(NamedTuple):
    """A feature of an encoder: its name, channels and reduction."""

    name: str
    channels: int
    reduction: int


def pyramid_stages(levels: list[Level], width: int) -> tuple[Stage, ...]:
    """Stages ``pyramid n..1``, coarse to fine, ``width`` channels each, for features given fine to coarse."""
    coarsest = levels[-1]
    number = len(levels)
    name = f"pyramid{number}"
    stages = [
        Stage(name, ConvNormAct(coarsest.channels, width, 1), (coarsest.name,), width, coarsest.reduction)
    ]
    for index in range(number - 1, 0, -1):
        level = levels[index - 1]
        reads = (stages[-1].name, level.name)
        stages.append(Stage(f"pyramid{index}", _Merge(level.channels, width), reads, width, level.reduction))
    return tuple(stages)


class _Merge(nn.Module):
    """Upsample the coarse feature, add the projected fine one, smooth."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.lateral = nn.Conv2d(channels, width, 1)
        self.smooth = ConvNormAct(width, width)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        lateral = self.lateral(fine)
        merged: Tensor = self.smooth(F.interpolate(coarse, size=fine.shape[-2:]) + lateral)
        return merged
