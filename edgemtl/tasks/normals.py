"""Surface normals: a direction for every pixel. Loss and metrics of the MTAN protocol (Liu et al. 2019)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from edgemtl.core.bundle import UnitVector
from edgemtl.core.report import MetricInfo
from edgemtl.tasks.base import Head, LossSum, Meter, Task

WITHIN = {"within_11": 11.25, "within_22": 22.5, "within_30": 30.0}  # degrees
BINS_PER_DEGREE = 100  # fine enough for the median, and 11.25 is the edge of a bin
BINS = 180 * BINS_PER_DEGREE
SHORTEST = 1e-3  # a vector below this length has no direction; its square is still a float16


class Normals(Task, frozen=True, kw_only=True, tag="normals"):
    """Unit vectors [B, 3, H, W], learned by 1 - cosine from float32 [B, 3, H, W] with zero where invalid."""

    label_kind: ClassVar[str] = "normals"

    @property
    def output(self) -> UnitVector:
        """x right, y down, z forward."""
        return UnitVector()

    @property
    def metrics(self) -> tuple[MetricInfo, ...]:
        """See ``NormalsMeter``."""
        return (
            MetricInfo("mean", "degree", False),
            MetricInfo("median", "degree", False),
            *(MetricInfo(name, "1", True) for name in WITHIN),
        )

    def head(self, channels: int) -> Head:
        """Three output channels of length 1."""
        return NormalsHead(channels, 3)

    def loss(self, prediction: Tensor, target: Tensor) -> LossSum:
        """1 - cosine over the valid pixels."""
        valid = _valid(target)
        cosine = (prediction * target).sum(dim=1, keepdim=True)
        return LossSum(((1 - cosine) * valid).sum(), valid.sum())

    def meter(self) -> NormalsMeter:
        """A fresh meter."""
        return NormalsMeter()


class NormalsHead(Head):
    """A head whose output has length 1, inside the network: the edge does not have to normalize."""

    def finish(self, prediction: Tensor) -> Tensor:
        """[B, 3, H, W] -> the same directions, of length 1."""
        return _unit(prediction)


class NormalsMeter(Meter):
    """The angle between prediction and label, in degrees, over all valid pixels of the set.

    ``mean``; ``median``, from a histogram and so exact to 0.01; ``within_11``, ``within_22``, ``within_30``,
    the shares below 11.25, 22.5 and 30. A prediction that is not finite counts as 180.
    """

    def __init__(self) -> None:
        super().__init__(BINS + 1)

    def measure(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Twice [B, 3, H, W] -> the histogram of the angles, and their sum."""
        valid = _valid(target)
        angle = _angle(_unit(prediction.to(target.dtype)), target).nan_to_num(nan=180.0)
        bins = (angle * BINS_PER_DEGREE).long().clamp(max=BINS - 1)
        histogram = torch.bincount(torch.where(valid, bins, BINS).flatten(), minlength=BINS + 1)[:BINS]
        return torch.cat([histogram.double(), (angle * valid).sum(dtype=torch.float64)[None]])

    def compute(self) -> dict[str, float]:
        """The metrics by name. NaN where no valid pixel was seen."""
        below = self.state[:BINS].cumsum(0)  # below[i]: how many angles are under (i + 1) / BINS_PER_DEGREE
        count = below[-1]
        middle = int(torch.searchsorted(below, count / 2))
        return {
            "mean": float(self.state[BINS] / count),
            "median": (middle + 0.5) / BINS_PER_DEGREE if count else float("nan"),
            **{
                name: float(below[int(angle * BINS_PER_DEGREE) - 1] / count) for name, angle in WITHIN.items()
            },
        }


def _valid(target: Tensor) -> Tensor:
    """[B, 3, H, W] -> bool [B, 1, H, W]."""
    return (target != 0).any(dim=1, keepdim=True)


def _square(vector: Tensor) -> Tensor:
    """[B, 3, H, W] -> the square of the length, [B, 1, H, W]."""
    # On a CPU, vector_norm over this axis takes 20 times as long.
    return (vector * vector).sum(dim=1, keepdim=True)


def _unit(vector: Tensor) -> Tensor:
    """The same directions, of length 1; shorter where there is none, with a finite gradient even at zero."""
    return vector / _square(vector).clamp(min=SHORTEST**2).sqrt()


def _angle(a: Tensor, b: Tensor) -> Tensor:
    """The angle between unit vectors, in degrees; unlike the arc cosine it is precise near 0.

    2 atan2(|a - b|, |a + b|) (Kahan, "How Futile are Mindless Assessments of Roundoff", 2006, section 12). A
    zero vector is 90 degrees from everything.
    """
    return torch.rad2deg(2 * torch.atan2(_square(a - b).sqrt(), _square(a + b).sqrt()))
