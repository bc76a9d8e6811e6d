"""Predictions as pictures: classes in fixed colors, scalars through viridis, unit vectors as (n + 1) / 2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.core.bundle import Classes, Output, Scalar
from edgemtl.core.errors import SetupError
from edgemtl.core.files import replacing

Picture = NDArray[np.uint8]
Limits = tuple[float, float]

# Twenty colors that are told apart on a dark and on a bright photograph; further classes darken them.
PALETTE = np.array(
    [
        (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 100, 255), (245, 130, 48),
        (145, 30, 180), (70, 240, 240), (240, 50, 230), (210, 245, 60), (128, 0, 0),
        (0, 128, 128), (220, 190, 255), (170, 110, 40), (255, 250, 200), (250, 190, 212),
        (170, 255, 195), (128, 128, 0), (255, 150, 120), (0, 0, 128), (160, 160, 160),
    ]
)  # fmt: skip

# viridis (van der Walt & Smith 2015) as a polynomial in 0..1, constant term first: a least-squares fit of
# degree 6 to its 256 colors, within 0.017 of each, and brightness still rises everywhere.
VIRIDIS = np.array(
    [
        (0.2745, 0.0058, 0.3327),
        (0.1077, 1.3965, 1.3868),
        (-0.3272, 0.2148, 0.0920),
        (-4.5999, -5.7582, -19.2918),
        (6.2037, 14.1540, 56.6563),
        (4.7518, -13.7494, -65.3210),
        (-5.4321, 4.6416, 26.2721),
    ]
)

MARGIN, TITLE_HEIGHT, SMALLEST_WIDTH = 4, 16, 192


def picture(prediction: NDArray[Any], output: Output, *, limits: Limits | None = None) -> Picture:
    """A task's prediction [C, H, W] as uint8 [H, W, 3]. ``limits`` is for scalars; by default their range."""
    if isinstance(output, Classes):
        return class_picture(prediction.argmax(axis=0))
    if isinstance(output, Scalar):
        return scalar_picture(prediction[0], limits or value_range(prediction))
    return vector_picture(prediction)


def class_picture(classes: NDArray[Any]) -> Picture:
    """Class indices [H, W] -> uint8 [H, W, 3]; negative ones, the unlabeled, are black."""
    shades = 0.6 ** (classes // len(PALETTE))
    colors = PALETTE[classes % len(PALETTE)] * shades[..., None]
    return np.where(classes[..., None] >= 0, colors, 0).astype(np.uint8)


def scalar_picture(values: NDArray[Any], limits: Limits) -> Picture:
    """Values [H, W] -> uint8 [H, W, 3], from dark at the lower limit to bright at the upper; NaN is black."""
    low, high = limits
    position = np.clip((values - low) / max(high - low, 1e-12), 0, 1)[..., None]
    colors = np.zeros((*values.shape, 3))
    for coefficients in VIRIDIS[::-1]:
        colors = colors * position + coefficients
    return _to_bytes(np.where(np.isnan(position), 0, colors))


def vector_picture(vectors: NDArray[Any]) -> Picture:
    """Vectors [3, H, W] with components in -1..1 -> uint8 [H, W, 3]."""
    return _to_bytes((vectors.transpose(1, 2, 0) + 1) / 2)


def value_range(values: NDArray[Any]) -> Limits:
    """The 2nd and 98th percentile of the finite values, so that an outlier does not flatten the rest."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = np.percentile(finite, (2, 98))
    return float(low), float(high)


def caption(task: str, output: Output, limits: Limits) -> str:
    """A picture's title: the task and, for a scalar, what its colors mean."""
    return f"{task} {limits[0]:.3g} to {limits[1]:.3g} {output.unit}" if isinstance(output, Scalar) else task


def save_grid(path: Path, rows: Sequence[Sequence[Picture]], titles: Sequence[str]) -> None:
    """Write pictures [H, W, 3] of one size as a PNG, in rows, with a title above each column.

    Small pictures are enlarged by a whole factor, pixels staying sharp, so that the titles fit.

    Raises:
        SetupError: pillow is not installed, or the file cannot be written; then nothing is left behind.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise SetupError(
            "pictures",
            expected="pillow",
            found=str(error),
            fix="Install it with `pip install 'edgemtl[ort]'`.",
        ) from error
    height, width = rows[0][0].shape[:2]
    factor = -(-SMALLEST_WIDTH // width)
    height, width = height * factor, width * factor
    size = (len(titles) * (width + MARGIN) + MARGIN, len(rows) * (height + MARGIN) + TITLE_HEIGHT)
    grid = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(grid)
    for column, title in enumerate(titles):
        draw.text((MARGIN + column * (width + MARGIN), 2), title, "black")
    for row, cells in enumerate(rows):
        for column, cell in enumerate(cells):
            enlarged = cell.repeat(factor, axis=0).repeat(factor, axis=1)
            corner = (MARGIN + column * (width + MARGIN), TITLE_HEIGHT + row * (height + MARGIN))
            grid.paste(Image.fromarray(enlarged), corner)
    with replacing(path) as draft:
        grid.save(draft, format="PNG")


def _to_bytes(colors: NDArray[Any]) -> Picture:
    pixels: Picture = np.clip(np.rint(colors * 255), 0, 255).astype(np.uint8)
    return pixels
