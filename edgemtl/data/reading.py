"""Arrays and pictures from files, checked as they are read: a file that is damaged is named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgemtl.core.errors import DataError

SUFFIXES = (".npy", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
LOSSY = (".jpg", ".jpeg", ".webp")
# Pillow spreads gray of 2 and 4 bits over 0..255, but what is stored are the indices of classes.
SPREAD = {"L;2": 85, "L;4": 17}
Numbers = NDArray[Any]


def names_in(folder: Path) -> dict[str, Path]:
    """The files of a folder that can be read, by their names without a suffix; 2 comes before 10.

    Raises:
        DataError: two files differ in their suffix alone, or the folder cannot be read.
    """
    found: dict[str, Path] = {}
    try:
        paths = list(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise DataError(
            folder, expected="a folder to read", found=error.strerror or str(error), fix="Permit reading it."
        ) from error
    for path in sorted(path for path in paths if path.suffix.lower() in SUFFIXES and path.name[0] != "."):
        if path.stem in found:
            raise DataError(
                path, expected="one file of a name", found=f"{found[path.stem].name} too", fix="Remove one."
            )
        found[path.stem] = path
    return dict(sorted(found.items(), key=lambda item: (len(item[0]), item[0])))


def read(path: Path, *, rgb: bool = False) -> Numbers:
    """What a .npy or a picture holds, as it is stored: [H, W] or [H, W, C]; half floats become float32. Of a
    palette it is the indices.

    Args:
        rgb: convert a picture that is gray, has a palette or is transparent, and turn it upright.

    Raises:
        DataError: the file is missing, damaged or holds no numbers.
    """
    try:
        array = _npy(path) if path.suffix.lower() == ".npy" else _picture(path, rgb)
    except Exception as error:  # of a damaged header, numpy and pillow raise whatever their parsers do
        raise DataError(
            path,
            expected=f"a whole {path.suffix} file",
            found=" ".join(str(error).split()),
            fix="Copy or prepare this file again.",
        ) from error
    if array.dtype.kind not in "iufb":
        raise DataError(path, expected="numbers", found=str(array.dtype), fix="Prepare this file again.")
    with np.errstate(over="ignore"):  # what becomes infinite is out of range
        return array.astype(np.float32) if array.dtype.kind == "f" else array


def check_shape(path: Path, array: Numbers, shape: Sequence[int], like: str) -> None:
    """Raises DataError: the array of a file has another shape."""
    if array.shape != tuple(shape):
        raise wrong_shape(path, f"{list(shape)}, as {like} has it", array)


def wrong_shape(path: Path, expected: str, array: Numbers) -> DataError:
    """The error for the array of a file that has another shape than expected."""
    return DataError(
        path,
        expected=f"shape {expected}",
        found=str(list(array.shape)),
        fix="Prepare this file again; photographs are read upright, as their EXIF says.",
    )


def check_range(path: Path, array: Numbers, low: float, high: float, fix: str) -> None:
    """Raises DataError: a value of a file is not in low..high, or not a number."""
    smallest, largest = array.min(), array.max()
    if not (low <= smallest and largest <= high):  # so that NaN fails, too
        raise DataError(
            path,
            expected=f"values in {low:g}..{high:g}",
            found="NaN" if np.isnan(largest) else f"{smallest:g}..{largest:g}",
            fix=fix,
        )


def planes(array: Numbers) -> torch.Tensor:
    """[H, W, C] -> float32 [C, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 0), dtype=np.float32))


def _npy(path: Path) -> Numbers:
    with path.open("rb") as file:
        array: Numbers = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _picture(path: Path, rgb: bool) -> Numbers:
    from PIL import Image, ImageOps

    with Image.open(path) as picture:
        if rgb and not picture.mode.startswith(("I", "F")):  # those are depth maps: RGB would clip them
            upright = ImageOps.exif_transpose(picture)
            # Straight to RGB, a palette with several transparent colors brings a warning.
            opaque = upright.convert("RGBA") if "transparency" in upright.info else upright
            return np.asarray(opaque.convert("RGB"))
        how = picture.tile[0][3] if picture.tile else ""
        spread = SPREAD.get(how[0] if isinstance(how, tuple) else how, 1)  # of a TIFF there is more
        return np.asarray(picture) // spread if spread > 1 else np.asarray(picture)
