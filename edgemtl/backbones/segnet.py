"""SegNet (Badrinarayanan et al. 2017) in the form of MTAN (Liu et al. 2019), with free widths.

Stages ``encoder1..n`` halve the size, ``decoder n..1`` restore it. Level i has ``convs[i]`` convolutions 3x3
on the way down and as many on the way up. With widths 64, 128, 256, 512, 512, convs 2, 2, 3, 3, 3 and one
head of 13 classes it has the 24,981,069 parameters of the published network.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

import msgspec
from torch import Tensor, nn
from torch.nn import functional as F

from edgemtl.backbones.base import IMAGE, Backbone, ConvNormAct, Stage
from edgemtl.core.errors import UsageError

Widths = Annotated[tuple[Annotated[int, msgspec.Meta(ge=1)], ...], msgspec.Meta(min_length=1)]


class SegNet(Backbone, frozen=True, kw_only=True, tag="segnet"):
    """``decoder``: ``unpool`` puts values back where the maximum was, as published, but neither TensorRT nor
    most runtimes can; ``resize`` (nearest, plus the encoder's feature of that size) deploys everywhere.
    """

    widths: Widths = (64, 128, 256, 512, 512)
    convs: Widths = (2, 2, 3, 3, 3)
    decoder: Literal["resize", "unpool"] = "resize"

    def __post_init__(self) -> None:
        if len(self.convs) != len(self.widths):
            raise UsageError(
                "$.backbone.convs",
                expected=f"one number for each of the {len(self.widths)} widths",
                found=str(len(self.convs)),
                fix="Give `widths` and `convs` the same length.",
            )

    def stages(self) -> tuple[Stage, ...]:
        """Encoder stages from the image down, then decoder stages back up to reduction 1."""
        down: list[Stage] = []
        up: list[Stage] = []
        indices = self.decoder == "unpool"
        upsample = _Unpool if indices else _Resize
        before, below = 3, IMAGE
        for level, (width, count) in enumerate(zip(self.widths, self.convs, strict=True), start=1):
            name, above = f"encoder{level}", f"decoder{level}"
            extras = (f"{name}.skip", f"{name}.indices") if indices else (f"{name}.skip",)
            encoder = _Encoder(_convs([before] + [width] * count), indices)
            down.append(Stage(name, encoder, (below,), width, 2**level, extras))
            out = before if level > 1 else width
            source = f"decoder{level + 1}" if level < len(self.widths) else name
            decoder = upsample(_convs([width] + [out] * count))
            up.insert(0, Stage(above, decoder, (source, *extras), out, 2 ** (level - 1)))
            before, below = width, name
        return (*down, *up)


def _convs(channels: list[int]) -> nn.Sequential:
    return nn.Sequential(*(ConvNormAct(a, b) for a, b in pairwise(channels)))


class _Encoder(nn.Module):
    """Convolutions, then 2x2 max pooling; gives the pooled feature, the one before, and maybe the indices."""

    def __init__(self, convs: nn.Sequential, indices: bool) -> None:
        super().__init__()
        self.convs = convs
        self.pool = nn.MaxPool2d(2, return_indices=indices)
        self.indices = indices

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        skip = self.convs(x)
        if self.indices:
            pooled, where = self.pool(skip)
            return pooled, skip, where
        return self.pool(skip), skip


class _Resize(nn.Module):
    def __init__(self, convs: nn.Sequential) -> None:
        super().__init__()
        self.convs = convs

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        # The skip carries the detail that pooling indices carry in the published decoder.
        restored: Tensor = self.convs(F.interpolate(x, size=skip.shape[-2:]) + skip)
        return restored


class _Unpool(nn.Module):
    def __init__(self, convs: nn.Sequential) -> None:
        super().__init__()
        self.convs = convs

    def forward(self, x: Tensor, skip: Tensor, where: Tensor) -> Tensor:
        # Only the size of the skip is used: an odd size cannot be told from its half.
        restored: Tensor = self.convs(F.max_unpool2d(x, where, [2, 2], output_size=skip.shape[-2:]))
        return restored
