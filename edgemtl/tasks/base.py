"""What every task has: a head, a loss, a meter, and a description of its output for the edge.

A task is a frozen struct: its fields are what a recipe may say, its methods are what it does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgemtl.core.bundle import Classes, Output
from edgemtl.core.errors import DataError
from edgemtl.core.report import MetricInfo


@dataclass(frozen=True)
class LossSum:
    """A loss as its sum over valid elements and their number.

    Kept apart so that several processes can divide by the number of valid elements of the global batch:
    a mean of means would weigh pixels unequally. Both are scalars; ``count`` carries no gradient.
    """

    total: Tensor
    count: Tensor


class Meter(ABC):
    """Metrics over a whole split. ``state`` is one float64 tensor, and meters merge by adding it."""

    def __init__(self, size: int) -> None:
        self.state = torch.zeros(size, dtype=torch.float64)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add a batch: what the head wrote, and the label. Invalid pixels count for nothing."""
        with torch.no_grad():
            self.state += self.measure(prediction, target).to(self.state)

    @abstractmethod
    def measure(self, prediction: Tensor, target: Tensor) -> Tensor:
        """What a batch adds to ``state``; computed where the batch is."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The metrics by name. NaN where no valid pixel was seen, and there alone: a prediction that is not
        finite is as wrong as one can be.
        """


class Task(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """The base of every task; a member lives in a file of its own and joins ``TaskSpec``.

    ``label`` names the dataset's label that it learns; by default the task's type. ``label_kind`` is the kind
    that this label must be of.
    """

    label_kind: ClassVar[str]

    label: str = ""

    @property
    def label_name(self) -> str:
        """The name of the label in a batch."""
        return self.label or str(self.__struct_config__.tag)

    @property
    def output(self) -> Output:
        """How the edge reads this task's tensor."""
        raise NotImplementedError

    @property
    def metrics(self) -> tuple[MetricInfo, ...]:
        """Names, units and directions of what ``meter`` computes, in the order of a table."""
        raise NotImplementedError

    def check_label(self, kind: str, names: Sequence[str]) -> None:
        """Check that this task can learn a dataset's label of a kind, with the names of its classes if any.

        Raises:
            DataError: the label is of another kind, or has more or fewer classes.
        """
        if kind != self.label_kind:
            raise DataError(
                f"label `{self.label_name}`",
                expected=f"{self.label_kind} for a task of type {self.__struct_config__.tag}",
                found=kind,
                fix="Name another label, or let the task be of another type.",
            )
        if isinstance(self.output, Classes) and len(names) != len(self.output.labels):
            raise DataError(
                f"label `{self.label_name}`",
                expected=f"the task's {len(self.output.labels)} classes",
                found=f"{len(names)}: {', '.join(names)}",
                fix=f"Set `classes: {len(names)}` in the task.",
            )

    def named(self, names: Sequence[str]) -> Task:
        """This task with the names of the label's classes written out, where it has classes."""
        return self

    def head(self, channels: int) -> Head:
        """A fresh head for a feature map of so many channels."""
        raise NotImplementedError

    def loss(self, prediction: Tensor, target: Tensor) -> LossSum:
        """The loss over the valid pixels of a batch, finite for any finite prediction."""
        raise NotImplementedError

    def meter(self) -> Meter:
        """A fresh meter."""
        raise NotImplementedError


class Head(nn.Module):
    """Conv 3x3 -> conv 1x1 -> bilinear resize to the image, as in MTAN (Liu et al. 2019).

    Nothing stands between the convolutions, so collapse makes them one, where that takes no more operations.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        hidden, predict = nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, out_channels, 1)
        self.convs: nn.Module = nn.Sequential(OrderedDict(hidden=hidden, predict=predict))

    def forward(self, feature: Tensor, size: tuple[int, int]) -> Tensor:
        """[B, channels, h, w] and (height, width) of the image -> [B, out_channels, height, width]."""
        prediction: Tensor = self.convs(feature)
        if tuple(prediction.shape[-2:]) != tuple(size):
            prediction = F.interpolate(prediction, size=size, mode="bilinear", align_corners=False)
        return self.finish(prediction)

    def finish(self, prediction: Tensor) -> Tensor:
        """What still follows the resize; nothing by default."""
        return prediction
