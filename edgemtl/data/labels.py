"""From a file to an image or a label as samples have it, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import torch
from torch import Tensor

from edgemtl.core.errors import DataError, UsageError
from edgemtl.data.reading import LOSSY, check_range, check_shape, planes, read, wrong_shape
from edgemtl.data.sample import LabelInfo


def load_image(path: Path) -> Tensor:
    """float32 [3, H, W], RGB in 0..1.

    Raises:
        DataError: the file is damaged, or is no such image.
    """
    array = read(path, rgb=True)
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise wrong_shape(path, "[height, width, 3]", array)
    if array.dtype == np.uint8 and path.suffix.lower() != ".npy":
        array = array / np.float32(255)
    check_range(path, array, 0, 1, "Prepare it again: a picture, or an array in 0..1.")
    return planes(array)


class LabelFiles(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """How the files of a label are read. ``folder`` is where they lie, by default named as the label."""

    folder: str = ""

    @property
    def info(self) -> LabelInfo:
        """What the label is."""
        raise NotImplementedError

    def load(self, path: Path, size: tuple[int, int]) -> Tensor:
        """The label of an image of (height, width), as ``LabelInfo`` has it.

        Raises:
            DataError: the file is damaged, of another size, or has values that make no sense.
        """
        raise NotImplementedError


class ClassFiles(LabelFiles, frozen=True, kw_only=True, tag="classes"):
    """An index for each pixel, into ``names``; those of ``void`` are not labeled, as -1 is not. ``first`` is
    the index that the first class has in the files: 1 where 0 is none.
    """

    names: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    void: tuple[int, ...] = (255,)
    first: Annotated[int, msgspec.Meta(ge=0)] = 0

    def __post_init__(self) -> None:
        if both := [index for index in self.void if self.first <= index <= self._last]:
            raise UsageError(
                "$.data.labels",
                expected=f"`void` outside {self.first}..{self._last}, the indices of `names`",
                found=str(both[0]),
                fix="Let `void` be an index that no class has; where classes begin at 1, set `first: 1`.",
            )
        if twice := [name for name in self.names if self.names.count(name) > 1]:
            raise UsageError(
                "$.data.labels",
                expected="a name of its own for each class",
                found=f"`{twice[0]}` twice",
                fix="Rename one: reports tell classes by their names.",
            )

    @property
    def _last(self) -> int:
        return self.first + len(self.names) - 1

    @property
    def info(self) -> LabelInfo:
        """Classes by name."""
        return LabelInfo("classes", self.names)

    def load(self, path: Path, size: tuple[int, int]) -> Tensor:
        """int64 [H, W]."""
        _check_exact(path, "indices")
        array = read(path)
        if array.ndim == 3:
            raise DataError(
                path,
                expected="an index for each pixel",
                found=f"{array.shape[2]} channels, as of a colored picture",
                fix="Save the indices of the classes, gray or with a palette.",
            )
        check_shape(path, array, size, "its image")
        if array.dtype.kind != "f":
            array = array.astype(np.int64)  # unsigned has no -1
        labeled = ~np.isin(array, (-1, *self.void))
        array = np.where(labeled, array, self.first)
        fix = "Name every class in the order of its index, and put what is none into `void`."
        check_range(path, array, self.first, self._last, fix)
        classes = array.astype(np.int64)
        if (classes != array).any():
            raise DataError(
                path,
                expected="whole numbers",
                found="fractions",
                fix="Resize labels to the nearest, never smoothly.",
            )
        return torch.from_numpy(np.where(labeled, classes - self.first, -1))


class DepthFiles(LabelFiles, frozen=True, kw_only=True, tag="depth"):
    """Distances: ``meters`` is what a stored 1 stands for, ``farthest`` is what no pixel can exceed."""

    meters: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    farthest: Annotated[float, msgspec.Meta(gt=0)] = 1000.0

    @property
    def info(self) -> LabelInfo:
        """Depth in meters."""
        return LabelInfo("depth")

    def load(self, path: Path, size: tuple[int, int]) -> Tensor:
        """float32 [1, H, W] in meters."""
        _check_exact(path, "distances")
        array = read(path)
        if array.ndim == 2:
            array = array[..., None]
        check_shape(path, array, (*size, 1), "its image")
        depth = array * np.float32(self.meters)
        check_range(
            path,
            depth,
            0,
            self.farthest,
            "0 is unknown, all else is in meters: set `meters` to the unit of the file.",
        )
        return planes(depth)


class NormalFiles(LabelFiles, frozen=True, kw_only=True, tag="normals"):
    """Directions of surfaces: x right, y down, z forward."""

    @property
    def info(self) -> LabelInfo:
        """Unit vectors."""
        return LabelInfo("normals")

    def load(self, path: Path, size: tuple[int, int]) -> Tensor:
        """float32 [3, H, W] of length 1 or 0."""
        array = read(path)
        check_shape(path, array, (*size, 3), "its image")
        if array.dtype == np.uint8:
            array = array.astype(np.float32) / np.float32(127.5) - 1
            # What is no direction is gray or black in such pictures, not quite zero.
            length = np.linalg.norm(array, axis=-1, keepdims=True)
            array = np.where(np.abs(length - 1) < 0.5, array, 0)
        check_range(path, array, -1.01, 1.01, "Normals have length 1.")
        normals = planes(array)
        length = normals.square().sum(dim=0).sqrt()  # several times faster than vector_norm on a CPU
        return normals / length.clamp(min=torch.finfo(length.dtype).tiny)


def _check_exact(path: Path, what: str) -> None:
    if path.suffix.lower() in LOSSY:
        raise DataError(
            path, expected=f"{what} that are stored exactly", found=path.suffix, fix="Save them as .png."
        )
