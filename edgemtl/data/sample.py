"""What a dataset gives: images with labels, and what the labels are.

How labels mark pixels that nobody labeled: classes -1, depth 0, normals the zero vector. A sample that lacks
a label altogether carries it with no valid pixel, so partial labels need no second mechanism.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import torch
from torch import Tensor
from torch.nn import functional as F


class LabelInfo(msgspec.Struct, frozen=True):
    """What a label is, so that augmentation can follow its geometry.

    ``classes``: int64 [H, W], -1 = unlabeled, ``names`` for the rest. ``depth``: float32 [1, H, W] in meters,
    0 = invalid. ``normals``: float32 [3, H, W], unit vectors (x right, y down, z forward), zero = invalid.
    """

    kind: Literal["classes", "depth", "normals"]
    names: tuple[str, ...] = ()

    def valid(self, label: Tensor) -> Tensor:
        """A label of one sample -> bool [H, W]: the pixels that somebody labeled."""
        if self.kind == "classes":
            return label >= 0
        return (label != 0).any(dim=0)

    def blank(self, size: tuple[int, int]) -> Tensor:
        """A label of (height, width) in which nobody labeled a pixel."""
        if self.kind == "classes":
            return torch.full(size, -1)
        return torch.zeros({"depth": 1, "normals": 3}[self.kind], *size)


@dataclass(frozen=True)
class Sample:
    """One image, float32 [3, H, W], RGB in 0..1, with its labels by name. ``id`` finds it again."""

    id: str
    image: Tensor
    labels: dict[str, Tensor]

    def resized(self, size: tuple[int, int]) -> Sample:
        """At (height, width): the image as a device resizes it (``InputInfo``), labels by nearest pixels."""
        height, width = self.image.shape[-2:]
        rows, columns = nearest_pixels(height, size[0]), nearest_pixels(width, size[1])
        (image,) = F.interpolate(self.image[None], size, mode="bilinear", antialias=True)
        labels = {name: label[..., rows, :][..., columns] for name, label in self.labels.items()}
        return Sample(self.id, image, labels)


@dataclass(frozen=True)
class Batch:
    """Samples of one size, stacked along a new first axis."""

    ids: tuple[str, ...]
    image: Tensor
    labels: dict[str, Tensor]

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Batch:
        """Stack samples that have the same size and the same labels."""
        return cls(
            tuple(sample.id for sample in samples),
            torch.stack([sample.image for sample in samples]),
            {name: torch.stack([s.labels[name] for s in samples]) for name in samples[0].labels},
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        """A sample, as a view."""
        return Sample(
            self.ids[index], self.image[index], {name: label[index] for name, label in self.labels.items()}
        )

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return Batch(
            self.ids,
            self.image.to(device, non_blocking=True),
            {name: label.to(device, non_blocking=True) for name, label in self.labels.items()},
        )

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, from where a GPU copies it while it computes."""
        return Batch(
            self.ids,
            self.image.pin_memory(),
            {name: label.pin_memory() for name, label in self.labels.items()},
        )


def nearest_pixels(old: int, new: int) -> Tensor:
    """For each of ``new`` pixels along an axis, the one of ``old`` under its center."""
    return ((torch.arange(new) + 0.5) * (old / new)).long()
