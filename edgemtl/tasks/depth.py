"""Metric depth: meters for every pixel. Loss and metrics of the MTAN protocol (Liu et al. 2019)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from edgemtl.core.bundle import Scalar
from edgemtl.core.report import MetricInfo
from edgemtl.tasks.base import Head, LossSum, Meter, Task


class Depth(Task, frozen=True, kw_only=True, tag="depth"):
    """Meters [B, 1, H, W], learned by the absolute error from float32 [B, 1, H, W] with 0 where invalid."""

    label_kind: ClassVar[str] = "depth"

    @property
    def output(self) -> Scalar:
        """One value a pixel, in meters."""
        return Scalar("m")

    @property
    def metrics(self) -> tuple[MetricInfo, ...]:
        """See ``DepthMeter``. MTAN has no rmse, so Delta_m leaves it out."""
        return (
            MetricInfo("abs", "m", False),
            MetricInfo("rel", "1", False),
            MetricInfo("rmse", "m", False, in_delta=False),
        )

    def head(self, channels: int) -> Head:
        """One output channel."""
        return Head(channels, 1)

    def loss(self, prediction: Tensor, target: Tensor) -> LossSum:
        """The absolute error over the valid pixels."""
        valid = target > 0
        error = (prediction - target).abs()
        return LossSum((error * valid).sum(), valid.sum())

    def meter(self) -> DepthMeter:
        """A fresh meter."""
        return DepthMeter()


class DepthMeter(Meter):
    """``abs``, the mean of |p - d|; ``rel``, that of |p - d| / d; ``rmse``, the root of that of (p - d)^2.

    The means are over all valid pixels of the set, so an image with more of them weighs more. They are
    infinite if a prediction is not finite.
    """

    def __init__(self) -> None:
        super().__init__(4)

    def measure(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Twice [B, 1, H, W] -> the sums of the three errors and the number of valid pixels."""
        valid = target > 0
        error = torch.where(valid, prediction - target, 0).abs().nan_to_num(nan=math.inf, posinf=math.inf)
        relative = error / torch.where(valid, target, 1)
        sums = [values.sum(dtype=torch.float64) for values in (error, relative, error.square(), valid)]
        return torch.stack(sums)

    def compute(self) -> dict[str, float]:
        """The metrics by name. NaN where no valid pixel was seen."""
        absolute, relative, square = (self.state[:3] / self.state[3]).tolist()
        return {"abs": absolute, "rel": relative, "rmse": square**0.5}
