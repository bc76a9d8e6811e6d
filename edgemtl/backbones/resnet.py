"""ResNet-18/34/50 (He et al. 2016) with a light pyramid decoder.

Module names follow torchvision's, so its files load through ``weights:``; stride sits on the 3x3 convolution
of a bottleneck (v1.5), as there.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated, Literal

import msgspec
from torch import Tensor, nn
from torch.nn import functional as F

from edgemtl.backbones.base import IMAGE, Backbone, Normalize, Stage
from edgemtl.backbones.pyramid import Level, pyramid_stages

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


class ResNet(Backbone, frozen=True, kw_only=True, tag="resnet"):
    """Stages ``stem, layer1..4``, then ``pyramid4..1``; the last has reduction 4 and ``width`` channels."""

    depth: Literal[18, 34, 50] = 18
    width: Annotated[int, msgspec.Meta(ge=1)] = 64

    def stages(self) -> tuple[Stage, ...]:
        """The encoder and its pyramid."""
        block = _Bottleneck if self.depth == 50 else _Basic
        stem = nn.Sequential(
            OrderedDict(
                normalize=Normalize(IMAGENET_MEAN, IMAGENET_STD),
                conv1=nn.Conv2d(3, 64, 7, 2, 3, bias=False),
                bn1=nn.BatchNorm2d(64),
                relu=nn.ReLU(inplace=True),
                maxpool=nn.MaxPool2d(3, 2, 1),
            )
        )
        stages = [Stage("stem", stem, (IMAGE,), 64, 4)]
        levels = []
        channels = 64
        for index, count in enumerate(_BLOCKS[self.depth]):
            width, stride = 64 * 2**index, 1 if index == 0 else 2
            blocks = [block(channels, width, stride)]
            channels = width * block.expansion
            blocks += [block(channels, width, 1) for _ in range(count - 1)]
            name, reduction = f"layer{index + 1}", stages[-1].reduction * stride
            stages.append(Stage(name, nn.Sequential(*blocks), (stages[-1].name,), channels, reduction))
            levels.append(Level(name, channels, reduction))
        return (*stages, *pyramid_stages(levels, self.width))

    def stage_key(self, key: str) -> str | None:
        """Torchvision's names: the classifier is not wanted, conv1 and bn1 stand in the stem."""
        if key.startswith("fc."):
            return None
        return f"stem.{key}" if key.startswith(("conv1.", "bn1.")) else key


class _Block(nn.Module):
    """A residual block; a projection joins where the shape changes."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = width * self.expansion
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )


class _Basic(_Block):
    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__(channels, width, stride)
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(inner)) + self.downsample(x))


class _Bottleneck(_Block):
    expansion = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__(channels, width, stride)
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * 4)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(x)))
        inner = F.relu(self.bn2(self.conv2(inner)))
        return F.relu(self.bn3(self.conv3(inner)) + self.downsample(x))
