"""Reads a dataset and says what is in it, for `edgemtl data check`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgemtl.core.errors import DataError
from edgemtl.core.inspection import DataCheck, LabelCheck
from edgemtl.data.base import Dataset, LabelInfo, Sample

LAYOUT = {"classes": ((), torch.int64), "depth": ((1,), torch.float32), "normals": ((3,), torch.float32)}


def check(dataset: Dataset, split: str = "", limit: int | None = None) -> DataCheck:
    """Read a dataset, or its first ``limit`` images, and check what it promises. ``split`` is its name.

    Raises:
        DataError: the first image that cannot be read, or whose image or label breaks the promise.
    """
    images = len(dataset) if limit is None else min(limit, len(dataset))
    tallies = {name: _Tally(info) for name, info in dataset.labels.items()}
    for index in range(images):
        sample = dataset[index]
        _check_sample(sample, dataset)
        for name, tally in tallies.items():
            tally.add(sample.labels[name])
    labels = {name: tally.result() for name, tally in tallies.items()}
    return DataCheck(split=split, images=images, size=dataset.size, labels=labels)


class _Tally:
    """Sums over the images of a label."""

    def __init__(self, info: LabelInfo) -> None:
        self.info = info
        self.pixels = self.valid = 0
        self.classes = torch.zeros(len(info.names), dtype=torch.int64)
        self.nearest, self.farthest = math.inf, -math.inf

    def add(self, label: Tensor) -> None:
        mask = self.info.valid(label)
        self.pixels += mask.numel()
        self.valid += int(mask.sum())
        if self.info.kind == "classes":
            self.classes += torch.bincount(label[mask], minlength=len(self.classes))
        if self.info.kind == "depth" and mask.any():
            depth = label[0][mask]
            self.nearest = min(self.nearest, float(depth.min()))
            self.farthest = max(self.farthest, float(depth.max()))

    def result(self) -> LabelCheck:
        shares = (self.classes / max(self.valid, 1)).tolist()
        return LabelCheck(
            kind=self.info.kind,
            valid=self.valid / max(self.pixels, 1),
            classes=dict(zip(self.info.names, shares, strict=True)),
            depth_m=(self.nearest, self.farthest) if self.nearest < math.inf else None,
        )


def _check_sample(sample: Sample, dataset: Dataset) -> None:
    _check_tensor(sample, "image", sample.image, (3, *dataset.size), torch.float32)
    low, high = sample.image.min(), sample.image.max()
    if not (low >= 0 and high <= 1):  # so that NaN fails, too
        raise _broken(sample, "image", "values in 0..1", f"{low:g}..{high:g}")
    if sample.labels.keys() != dataset.labels.keys():
        raise _broken(sample, "labels", ", ".join(dataset.labels), ", ".join(sample.labels) or "none")
    for name, info in dataset.labels.items():
        label = sample.labels[name]
        channels, dtype = LAYOUT[info.kind]
        _check_tensor(sample, name, label, (*channels, *dataset.size), dtype)
        _check_values(sample, name, label, info)


def _check_tensor(
    sample: Sample, name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    if tensor.shape != shape or tensor.dtype != dtype:
        found = f"{tensor.dtype} {list(tensor.shape)}"
        raise _broken(sample, name, f"{dtype} {list(shape)}", found)


def _check_values(sample: Sample, name: str, label: Tensor, info: LabelInfo) -> None:
    if info.kind == "normals":
        length = label.square().sum(dim=0).sqrt()
        if not torch.where(info.valid(label), (length - 1).abs() < 0.01, length == 0).all():
            raise _broken(sample, name, "vectors of length 1, or zero", f"{length.min():g}..{length.max():g}")
        return
    low, high = label.min(), label.max()
    first, last = (-1, len(info.names) - 1) if info.kind == "classes" else (0, torch.finfo(label.dtype).max)
    if not (low >= first and high <= last):
        raise _broken(sample, name, f"values in {first:g}..{last:g}", f"{low:g}..{high:g}")


def _broken(sample: Sample, name: str, expected: str, found: str) -> DataError:
    return DataError(
        f"{sample.id} {name}", expected=expected, found=found, fix="Mend this file or its dataset."
    )
