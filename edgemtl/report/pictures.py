"""Predictions as pictures: classes in fixed colors, scalars through viridis, unit vectors as (n + 1) / 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgemtl.core.bundle import Classes, Output, Scalar
from edgemtl.core.errors import SetupError
from edgemtl.core.files import replacing

Picture = NDArray[np.uint8]
Limits = tuple[float, float]
Legend = dict[str, tuple[int, ...]]  # names with their colors

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

MARGIN, TITLE_HEIGHT, SMALLEST_WIDTH, SWATCH = 4, 16, 192, 10


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


def legend(output: Classes, *classes: NDArray[Any]) -> Legend:
    """What the colors in pictures of class indices mean: of the classes that occur."""
    shown = np.unique(np.concatenate([indices.ravel() for indices in classes]))
    colors = class_picture(shown[None])[0].tolist()
    return {output.labels[i]: tuple(color) for i, color in zip(shown, colors, strict=True) if i >= 0}


def save_grid(
    path: Path,
    rows: Sequence[Sequence[Picture]],
    titles: Sequence[str],
    legends: Mapping[str, Legend] | None = None,
) -> None:
    """Write pictures [H, W, 3] of one size as a PNG, in rows, with a title above each column and the legends
    of tasks below.

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
    full_width, bottom = len(titles) * (width + MARGIN) + MARGIN, len(rows) * (height + MARGIN) + TITLE_HEIGHT
    entries = _arranged(legends or {}, full_width)
    lines = 1 + max((entry.line for entry in entries), default=-1)
    grid = Image.new("RGB", (full_width, bottom + lines * TITLE_HEIGHT), "white")
    draw = ImageDraw.Draw(grid)
    for column, title in enumerate(titles):
        draw.text((MARGIN + column * (width + MARGIN), 2), title, "black")
    for row, cells in enumerate(rows):
        for column, cell in enumerate(cells):
            enlarged = cell.repeat(factor, axis=0).repeat(factor, axis=1)
            corner = (MARGIN + column * (width + MARGIN), TITLE_HEIGHT + row * (height + MARGIN))
            grid.paste(Image.fromarray(enlarged), corner)
    for left, line, text, color in entries:
        top = bottom + line * TITLE_HEIGHT + 2
        if color:
            draw.rectangle((left, top, left + SWATCH, top + SWATCH), color)
        draw.text((left + (SWATCH + MARGIN if color else 0), top), text, "black")
    with replacing(path) as draft:
        grid.save(draft, format="PNG")


class _Entry(NamedTuple):
    """A piece of a legend and where it goes; the heading of a task has no color."""

    left: int
    line: int
    text: str
    color: tuple[int, ...] | None


def _arranged(legends: Mapping[str, Legend], width: int) -> list[_Entry]:
    """The legends, beginning on a line of their own and broken into as many as their names need."""
    from PIL import ImageFont

    font, line = ImageFont.load_default(), -1
    entries: list[_Entry] = []
    for task, colors in legends.items():
        line, left = line + 1, MARGIN
        for text, color in ((f"{task}:", None), *colors.items()):
            takes = round(font.getlength(text)) + (SWATCH + MARGIN if color else 0) + 2 * MARGIN
            if left > MARGIN and left + takes > width:
                line, left = line + 1, MARGIN
            entries.append(_Entry(left, line, text, color))
            left += takes
    return entries


def _to_bytes(colors: NDArray[Any]) -> Picture:
    pixels: Picture = np.clip(np.rint(colors * 255), 0, 255).astype(np.uint8)
    return pixels
