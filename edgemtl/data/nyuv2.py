"""NYUv2 (Silberman et al. 2012) in the directory layout of the MTAN release (Liu et al. 2019).

    ROOT/train, ROOT/val, each with
    image/K.npy   [H, W, 3] in 0..1       label/K.npy   [H, W], -1 = unlabeled, 0..12
    depth/K.npy   [H, W, 1] in meters     normal/K.npy  [H, W, 3], x right, y down, z forward

A depth of 0 and a normal of zero are invalid. Any type of number will do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from edgemtl.core.errors import DataError, nearest
from edgemtl.data.base import Data, Dataset, LabelInfo, Sample

CLASSES = (
    "bed",
    "books",
    "ceiling",
    "chair",
    "floor",
    "furniture",
    "objects",
    "picture",
    "sofa",
    "table",
    "tv",
    "wall",
    "window",
)
FOLDERS = ("image", "label", "depth", "normal")
FAR_M = 100  # no room is so deep: catches millimeters
CACHE_LIMIT_MIB = 1024
Numbers = NDArray[Any]
Side = Annotated[int, msgspec.Meta(ge=1)]


class NYUv2(Data, frozen=True, kw_only=True, tag="nyuv2"):
    """795 images to train on and 654 for validation, of rooms, with 13 classes, depth and normals.

    ``size`` (height, width) resizes them as they are read. ``holdout`` takes so many images, spread evenly,
    out of the training set and makes a split of its own from them. ``cache`` keeps what was read of a split
    in memory if all of it takes less than 1 GiB there.
    """

    root: str
    size: tuple[Side, Side] | None = None
    holdout: Annotated[int, msgspec.Meta(ge=0)] = 0
    cache: bool = True

    @property
    def splits(self) -> tuple[str, ...]:
        """``train`` and ``val`` as published, and ``holdout`` where the recipe asks for it."""
        return ("train", "val", "holdout") if self.holdout else ("train", "val")

    def dataset(self, split: str) -> NYUv2Split:
        """Open a split: its first sample is read, the others when they are asked for."""
        if split not in self.splits:
            raise DataError(
                "$.data", expected="a split of nyuv2", found=f"`{split}`", fix=nearest(split, self.splits)
            )
        folder = Path(self.root).expanduser() / ("val" if split == "val" else "train")
        names = _names(folder)
        if split != "val" and self.holdout:
            names = self._divide(folder, names)[split]
        return NYUv2Split(folder, names, self.size, self.cache)

    def _divide(self, folder: Path, names: list[str]) -> dict[str, list[str]]:
        if self.holdout >= len(names):
            raise DataError(
                folder,
                expected=f"more than the {self.holdout} images to hold out",
                found=str(len(names)),
                fix="Use a smaller `holdout`.",
            )
        held = [names[index * len(names) // self.holdout] for index in range(self.holdout)]
        return {"holdout": held, "train": [name for name in names if name not in held]}


class NYUv2Split(Dataset):
    """The images of a folder by name."""

    def __init__(self, folder: Path, names: list[str], size: tuple[int, int] | None, cache: bool) -> None:
        self._folder, self._names = folder, names
        self._stored_size = _size(folder / "image" / f"{names[0]}.npy")
        self.size = size or self._stored_size
        self.labels = {
            "segmentation": LabelInfo("classes", CLASSES),
            "depth": LabelInfo("depth"),
            "normals": LabelInfo("normals"),
        }
        first = self._read(names[0])
        mib = sum(t.nbytes for t in (first.image, *first.labels.values())) * len(names) / 2**20
        self._cache = _Cache(first, len(names)) if cache and mib < CACHE_LIMIT_MIB else None

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        if self._cache is None:
            return self._read(self._names[index])
        if not self._cache.known[index]:
            self._cache.keep(index, self._read(self._names[index]))
        return self._cache[index]

    def preload(self) -> None:
        """Read and check all samples, if they stay in memory."""
        if self._cache is not None:
            for index in range(len(self)):
                self[index]

    def _read(self, name: str) -> Sample:
        image, label, depth, normal = (self._folder / kind / f"{name}.npy" for kind in FOLDERS)
        height, width = self._stored_size
        sample = Sample(
            f"{self._folder.name}/{name}",
            _planes(_checked(image, (height, width, 3), 0, 1)),
            {
                "segmentation": _classes(label, (height, width)),
                "depth": _planes(_checked(depth, (height, width, 1), 0, FAR_M)),
                "normals": _unit(_planes(_checked(normal, (height, width, 3), -1.01, 1.01))),
            },
        )
        return sample if self.size == self._stored_size else sample.resized(self.size)


class _Cache:
    """Samples like the first, in one tensor for all: memory that few handles share between processes."""

    def __init__(self, first: Sample, images: int) -> None:
        self.known = np.zeros(images, dtype=bool)
        self._ids = [""] * images
        self._image = first.image.new_empty(images, *first.image.shape)
        self._labels = {name: label.new_empty(images, *label.shape) for name, label in first.labels.items()}

    def __getitem__(self, index: int) -> Sample:
        """A sample that is known, as a view."""
        labels = {name: label[index] for name, label in self._labels.items()}
        return Sample(self._ids[index], self._image[index], labels)

    def keep(self, index: int, sample: Sample) -> None:
        self._ids[index], self._image[index] = sample.id, sample.image
        for name, label in sample.labels.items():
            self._labels[name][index] = label
        self.known[index] = True


def _names(folder: Path) -> list[str]:
    """The names that all four folders hold, 2 before 10."""
    found = {kind: {path.stem for path in (folder / kind).glob("*.npy")} for kind in FOLDERS}
    everything = set().union(*found.values())
    for kind, names in found.items():
        if not names:
            raise DataError(
                folder / kind,
                expected=".npy files",
                found="none",
                fix="Let `root` be a folder with train/ and val/ in the layout of the MTAN release.",
            )
        if missing := sorted(everything - names, key=_in_order):
            raise DataError(
                folder / kind / f"{missing[0]}.npy",
                expected=f"the same files in each of {', '.join(FOLDERS)}",
                found=f"{len(missing)} missing here",
                fix="Copy or prepare the set again.",
            )
    return sorted(everything, key=_in_order)


def _in_order(name: str) -> tuple[int, str]:
    return len(name), name


def _size(image: Path) -> tuple[int, int]:
    shape = _load(image).shape
    if len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise _wrong_shape(image, "[height, width, 3]", shape)
    return shape[0], shape[1]


def _checked(path: Path, shape: tuple[int, ...], low: float, high: float) -> Numbers:
    array = _load(path)
    if array.shape != shape:
        raise _wrong_shape(path, f"{list(shape)}, as the first image has it,", array.shape)
    smallest, largest = array.min(), array.max()
    if not (low <= smallest and largest <= high):  # so that NaN fails, too
        raise DataError(
            path,
            expected=f"values in {low:g}..{high:g}",
            found="NaN" if np.isnan(largest) else f"{smallest:g}..{largest:g}",
            fix="Prepare it again: images in 0..1, classes in -1..12, depth in meters, normals of length 1.",
        )
    return array


def _load(path: Path) -> Numbers:
    try:
        with path.open("rb") as file:
            array: Numbers = np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # of a damaged header, numpy raises whatever its parser does
        raise DataError(
            path,
            expected="a whole .npy file",
            found=" ".join(str(error).split()),
            fix="Copy or prepare this file again.",
        ) from error
    if array.dtype.kind not in "iuf":
        raise DataError(path, expected="numbers", found=str(array.dtype), fix="Prepare this file again.")
    with np.errstate(over="ignore"):  # what becomes infinite is out of range
        return array.astype(np.float32) if array.dtype.kind == "f" else array


def _wrong_shape(path: Path, expected: str, found: tuple[int, ...]) -> DataError:
    return DataError(
        path, expected=f"shape {expected}", found=str(list(found)), fix="Prepare this file again."
    )


def _planes(array: Numbers) -> torch.Tensor:
    """[H, W, C] -> float32 [C, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 0), dtype=np.float32))


def _unit(normals: torch.Tensor) -> torch.Tensor:
    """[3, H, W] -> the same directions, of length 1; zero stays zero."""
    length = normals.square().sum(dim=0).sqrt()  # several times faster than vector_norm on a CPU
    return normals / length.clamp(min=torch.finfo(length.dtype).tiny)


def _classes(path: Path, size: tuple[int, int]) -> torch.Tensor:
    array = _checked(path, size, -1, len(CLASSES) - 1)
    classes = array.astype(np.int64)
    if (classes != array).any():
        raise DataError(
            path,
            expected="whole numbers",
            found="fractions",
            fix="Resize labels to the nearest, never smoothly.",
        )
    return torch.from_numpy(classes)
