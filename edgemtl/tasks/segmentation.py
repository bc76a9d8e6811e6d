"""Semantic segmentation: a class for every pixel. Loss and metrics of the MTAN protocol (Liu et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import msgspec
import torch
from torch import Tensor
from torch.nn import functional as F

from edgemtl.core.bundle import Classes
from edgemtl.core.errors import DataError
from edgemtl.core.report import MetricInfo
from edgemtl.tasks.base import Head, LossSum, Meter, Task

UNLABELED = -1


class Segmentation(Task, frozen=True, kw_only=True, tag="segmentation"):
    """Logits [B, classes, H, W], learned by cross-entropy from int64 [B, H, W] with -1 where unlabeled.

    ``labels`` names the classes for whoever reads the output, in the order of the dataset, which names them
    where the recipe does not.
    """

    label_kind: ClassVar[str] = "classes"

    classes: Annotated[int, msgspec.Meta(ge=2)]
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.labels and len(self.labels) != self.classes:
            raise ValueError(f"Expected {self.classes} `labels`, one for each class, got {len(self.labels)}")

    def check_label(self, kind: str, names: Sequence[str]) -> None:
        """As every task does, and that ``labels`` are the dataset's names in its order."""
        super().check_label(kind, names)
        for index, (ours, theirs) in enumerate(zip(self.labels, names, strict=False)):
            if ours != theirs:
                raise DataError(
                    f"label `{self.label_name}`",
                    expected=f"`{ours}`, as the task's `labels` have it, for class {index}",
                    found=f"`{theirs}`",
                    fix="Leave `labels` out: the data name the classes.",
                )

    @property
    def output(self) -> Classes:
        """Logits, with made-up names where the recipe gives none."""
        return Classes(self.labels or tuple(f"class_{index}" for index in range(self.classes)))

    @property
    def metrics(self) -> tuple[MetricInfo, ...]:
        """See ``SegmentationMeter``."""
        return (MetricInfo("miou", "1", True), MetricInfo("pixel_accuracy", "1", True))

    def named(self, names: Sequence[str]) -> Segmentation:
        """This task with ``labels`` filled in where the recipe gives none."""
        return self if self.labels else msgspec.structs.replace(self, labels=tuple(names))

    def head(self, channels: int) -> Head:
        """One output channel a class."""
        return Head(channels, self.classes)

    def loss(self, prediction: Tensor, target: Tensor) -> LossSum:
        """Cross-entropy over the labeled pixels."""
        # The sum over all pixels overflows float16.
        logits = prediction.to(torch.promote_types(prediction.dtype, torch.float32))
        total = F.cross_entropy(logits, target, ignore_index=UNLABELED, reduction="sum")
        return LossSum(total, (target != UNLABELED).sum())

    def meter(self) -> SegmentationMeter:
        """A fresh meter."""
        return SegmentationMeter(self.classes)


class SegmentationMeter(Meter):
    """``miou`` and ``pixel_accuracy`` from one confusion matrix over the whole set, as in MTAN.

    A class that is in neither the predictions nor the labels has no IoU and is left out of the mean; one that
    is predicted but never there counts as 0.
    """

    def __init__(self, classes: int) -> None:
        super().__init__(classes * classes)
        self.classes = classes

    def measure(self, prediction: Tensor, target: Tensor) -> Tensor:
        """[B, classes, H, W] and [B, H, W] -> the confusion matrix, flat, a row for each true class."""
        best = prediction.max(dim=1)  # on a CPU, argmax over this axis takes three times as long
        # A pixel whose best logit is no finite number is of no class: it counts as a class that it is not.
        predicted = torch.where(best.values.isfinite(), best.indices, (target + 1) % self.classes)
        nowhere = self.classes * self.classes
        cell = torch.where(target == UNLABELED, nowhere, target * self.classes + predicted)
        return torch.bincount(cell.flatten(), minlength=nowhere + 1)[:nowhere]

    def compute(self) -> dict[str, float]:
        """The metrics by name. NaN where no labeled pixel was seen."""
        confusion = self.state.reshape(self.classes, self.classes)
        hits = confusion.diagonal()
        union = confusion.sum(0) + confusion.sum(1) - hits
        return {
            "miou": float((hits / union)[union > 0].mean()),
            "pixel_accuracy": float(hits.sum() / confusion.sum()),
        }
