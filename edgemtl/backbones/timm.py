"""Any encoder of timm that gives a feature pyramid, with a light pyramid decoder. Needs ``edgemtl[timm]``."""

from __future__ import annotations

from typing import Annotated

import msgspec
from torch import Tensor, nn

from edgemtl.backbones.base import IMAGE, Backbone, Normalize, Stage
from edgemtl.backbones.pyramid import Level, pyramid_stages
from edgemtl.core.errors import SetupError, UsageError, nearest


class Timm(Backbone, frozen=True, kw_only=True, tag="timm"):
    """``backbone: timm:NAME`` in a recipe. Stages ``encoder`` (whole, so forks lie behind it), ``pyramid
    n..1``.

    Nothing is downloaded: name a file with ``weights:`` to start from pretrained ones.
    """

    model: str
    width: Annotated[int, msgspec.Meta(ge=1)] = 64

    def stages(self) -> tuple[Stage, ...]:
        """The encoder as one stage that writes all its features, then the pyramid.

        Raises:
            SetupError: timm is not installed or does not import.
            UsageError: timm knows no such model, or it gives no features at several sizes.
        """
        try:
            import timm
        except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision built for another torch
            raise SetupError(
                "backbone timm",
                expected="timm and a torchvision that fits the installed torch",
                found=str(error),
                fix="Install it: pip install 'edgemtl[timm]', or choose the backbone `resnet`.",
            ) from error
        if not timm.is_model(self.model):
            raise UsageError(
                "$.backbone.model",
                expected="a model of timm",
                found=f"`{self.model}`",
                fix=nearest(self.model, timm.list_models()),
            )
        # The getter keeps the names of a model's parts, so that its weights load; it also gives NCHW always.
        try:
            body = timm.create_model(self.model, pretrained=False, features_only=True, feature_cls="getter")
        except RuntimeError as error:  # a tag that it does not know, or a model without features
            raise UsageError(
                "$.backbone.model",
                expected="a model of timm that gives features at several sizes",
                found=f"`{self.model}` ({error})",
                fix="Leave out what follows the dot, or take another model.",
            ) from error
        info = body.feature_info
        names = ["encoder", *(f"encoder.{index}" for index in range(1, len(info.channels())))]
        # The coarsest feature comes first: it is the stage's own, the finer ones are extras.
        levels = [
            Level(name, channels, reduction)
            for name, channels, reduction in zip(
                names, reversed(info.channels()), reversed(info.reduction()), strict=True
            )
        ]
        module = _Encoder(body, Normalize(body.pretrained_cfg["mean"], body.pretrained_cfg["std"]))
        encoder = Stage(
            "encoder", module, (IMAGE,), levels[0].channels, levels[0].reduction, tuple(names[1:])
        )
        return (encoder, *pyramid_stages(levels[::-1], self.width))

    def stage_key(self, key: str) -> str | None:
        """timm's own names; classifiers are not wanted."""
        return None if key.startswith(("fc.", "classifier.", "head.")) else f"encoder.body.model.{key}"


class _Encoder(nn.Module):
    def __init__(self, body: nn.Module, normalize: Normalize) -> None:
        super().__init__()
        self.body = body
        self.normalize = normalize

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(reversed(self.body(self.normalize(image))))
