"""What every backbone is: named stages in order, each an ordinary module that reads earlier features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import torch
from torch import Tensor, nn

from edgemtl.core.errors import UsageError

IMAGE = "image"


@dataclass(frozen=True)
class Stage:
    """A step of a backbone: ``module(*features named by reads)`` gives the feature named after the stage.

    A stage with ``extras`` returns a tuple: its feature, then one tensor for each of them (a skip connection,
    pooling indices). ``channels`` and ``reduction`` (image size / feature size) describe the feature. A plan
    may fork at any stage, so a stage reads only what stages before it, or the image, have written.
    """

    name: str
    module: nn.Module
    reads: tuple[str, ...]
    channels: int
    reduction: int
    extras: tuple[str, ...] = ()

    @property
    def writes(self) -> tuple[str, ...]:
        """The names of the features that it adds."""
        return (self.name, *self.extras)

    def __call__(self, module: nn.Module, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run ``module``, this stage's or a group's copy of it, and name what it returns.

        Raises:
            UsageError: a stage with extras returns something else than a tensor for each of ``writes``.
        """
        result = module(*(features[name] for name in self.reads))
        results = result if self.extras else (result,)
        if not isinstance(results, tuple | list) or len(results) != len(self.writes):
            raise UsageError(
                f"backbone stage {self.name}",
                expected=f"a tuple of {', '.join(self.writes)}",
                found=f"{len(results)} of them"
                if isinstance(results, tuple | list)
                else type(result).__name__,
                fix="Return the feature, then one tensor for each of its `extras`.",
            )
        return dict(zip(self.writes, results, strict=True))


class Backbone(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """The base of every backbone's spec; a member lives in a file of its own and joins ``BackboneSpec``.

    ``weights`` names a file with pretrained weights (.safetensors, or a torch file that is loaded with
    weights_only and so never runs code). Layers that the file lacks keep their initialization.
    """

    weights: str = ""

    def stages(self) -> tuple[Stage, ...]:
        """Fresh stages, initialized from torch's random state."""
        raise NotImplementedError

    def stage_key(self, key: str) -> str | None:
        """Where a pretrained tensor belongs: ``STAGE.path.in.module``, or None for one that is not wanted."""
        return key


class ConvNormAct(nn.Sequential):
    """Conv -> batch normalization -> ReLU. The convolution keeps its bias, as in MTAN's SegNet."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2)
        self.norm = nn.BatchNorm2d(out_channels)
        self.act = nn.ReLU(inplace=True)


class Normalize(nn.Module):
    """(x - mean) / std per channel, inside the network so that every exported file takes RGB in 0..1."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        # Not persistent: constants of the code, which no weights file holds.
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] -> the same shape."""
        return (image - self.mean) / self.std
