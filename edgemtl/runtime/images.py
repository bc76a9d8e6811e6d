"""From a picture file to the array that a bundle takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.core.bundle import MANIFEST, InputInfo
from edgemtl.core.errors import DataError, SetupError

Pixels = NDArray[np.float32]
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".npy"}


def load_image(path: Path, info: InputInfo) -> Pixels:
    """Read a picture as float32 [1, 3, info.height, info.width], RGB in 0..1.

    Any color picture that pillow reads will do; so will a ``.npy`` of floats in 0..1, [H, W, 3] or [3, H, W].
    Another size is resized bilinearly, with a wider filter where it shrinks, as pillow does.

    Raises:
        DataError: the file is missing or damaged, or holds no RGB picture.
        SetupError: pillow is not installed.
    """
    if not path.is_file():
        raise DataError(
            path, expected="a picture, or first a bundle", found="no such file", fix="Check the path."
        )
    pixels = _read_npy(path) if path.suffix.lower() == ".npy" else _read_picture(path)
    if pixels.shape[:2] != (info.height, info.width):
        pixels = _resize(pixels, info.height, info.width)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def pictures_of(folder: Path) -> list[Path]:
    """The pictures right in a folder, by their suffix, in the order of their names. Hidden files are none.

    Raises:
        DataError: it has none, or is a bundle.
    """
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    found = [path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not found and (folder / MANIFEST).is_file():
        raise DataError(folder, expected="pictures", found="a bundle", fix="Name the bundle first.")
    if not found:
        names = ", ".join(path.name for path in paths[:3])
        raise DataError(
            folder,
            expected="pictures, or a bundle with manifest.json",
            found=names or "an empty folder",
            fix="Name a folder of pictures, or the bundle that `edgemtl export` printed.",
        )
    return found


def _read_picture(path: Path) -> Pixels:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise _no_pillow(error) from error
    try:
        with Image.open(path) as picture:
            # 16-bit and float pictures are depth maps and the like; conversion to RGB would clip them.
            if picture.mode.startswith(("I", "F")):
                raise _not_rgb(path, f"one of mode {picture.mode}")
            upright = ImageOps.exif_transpose(picture)
            # Straight to RGB, a palette with several transparent colors brings a warning.
            opaque = upright.convert("RGBA") if "transparency" in upright.info else upright
            pixels: Pixels = np.asarray(opaque.convert("RGB")).astype(np.float32) / np.float32(255)
    except DataError:
        raise
    except Exception as error:  # of a damaged file, pillow raises whatever its parsers do
        raise _not_rgb(path, str(error)) from error
    return pixels


def _read_npy(path: Path) -> Pixels:
    try:
        with path.open("rb") as file:
            array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # as above, of numpy
        raise _not_rgb(path, str(error)) from error
    shape = array.shape
    if array.ndim == 3 and shape[2] != 3:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[2] != 3 or not np.issubdtype(array.dtype, np.floating):
        raise _not_rgb(path, f"{array.dtype} {shape}")
    if not (array.size and array.min() >= 0 and array.max() <= 1):  # so written, NaN does not pass
        raise _not_rgb(path, "values outside 0..1 or none")
    return array.astype(np.float32)


def _resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """Resize in floats, channel by channel: no rounding to 8 bits."""
    try:
        from PIL import Image
    except ImportError as error:
        raise _no_pillow(error) from error
    bilinear = Image.Resampling.BILINEAR
    planes = [Image.fromarray(plane).resize((width, height), bilinear) for plane in pixels.transpose(2, 0, 1)]
    return np.stack([np.asarray(plane, dtype=np.float32) for plane in planes], axis=-1)


def _not_rgb(path: Path, found: str) -> DataError:
    return DataError(
        path,
        expected="an RGB picture, or a .npy of floats in 0..1 shaped [H, W, 3] or [3, H, W]",
        found=found,
        fix="Replace the file.",
    )


def _no_pillow(error: ImportError) -> SetupError:
    return SetupError(
        "pictures", expected="pillow", found=str(error), fix="Install it with `pip install 'edgemtl[ort]'`."
    )
