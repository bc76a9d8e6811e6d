from __future__ import annotations

import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from edgemtl.core.bundle import Classes, Output, Scalar, UnitVector
from edgemtl.core.errors import SetupError
from edgemtl.report.pictures import (
    caption,
    class_picture,
    legend,
    picture,
    save_grid,
    scalar_picture,
    value_range,
    vector_picture,
)

OUTPUTS = [Classes(tuple("abcde")), Scalar("m"), UnitVector()]
CHANNELS = [5, 1, 3]
finite = st.floats(-100, 100, width=32)


@pytest.mark.parametrize(("output", "channels"), list(zip(OUTPUTS, CHANNELS, strict=True)))
@given(data=st.data())
def test_every_kind_gives_a_picture_of_the_same_size(
    output: Output, channels: int, data: st.DataObject
) -> None:
    height, width = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    prediction = data.draw(arrays(np.float32, (channels, height, width), elements=finite))
    pixels = picture(prediction, output)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (height, width, 3)


def test_classes_are_told_apart() -> None:
    colors = class_picture(np.arange(40)[None])[0].astype(int)
    assert min(np.abs(a - b).max() for a, b in combinations(colors, 2)) >= 20
    first = colors[:20]
    assert min(np.abs(a - b).sum() for a, b in combinations(first, 2)) >= 60
    assert (colors.max(axis=1) > 60).all(), "none is taken for unlabeled"


def test_the_class_is_the_largest_logit_and_its_color_is_fixed() -> None:
    logits = np.zeros((5, 1, 2), np.float32)
    logits[3, 0, 0] = logits[1, 0, 1] = 1
    np.testing.assert_array_equal(picture(logits, OUTPUTS[0]), class_picture(np.array([[3, 1]])))


def test_unlabeled_pixels_are_black() -> None:
    assert not class_picture(np.full((2, 2), -1)).any()


@given(low=finite, span=st.floats(0.125, 100, width=32))
def test_brightness_rises_with_the_value_and_stops_at_the_limits(low: float, span: float) -> None:
    values = np.linspace(low, low + span, 256)[None]
    brightness = scalar_picture(values, (low, low + span))[0].astype(float) @ (0.2126, 0.7152, 0.0722)
    # Rounded to bytes, neighbours may tie or swap by one; over eight steps it rises.
    assert (brightness[8:] > brightness[:-8]).all()
    beyond = scalar_picture(np.array([[low - 1, low + span + 1]]), (low, low + span))[0]
    np.testing.assert_array_equal(beyond, scalar_picture(values, (low, low + span))[0, [0, -1]])


def test_a_scalar_without_a_value_is_black_and_a_flat_one_no_error() -> None:
    assert not scalar_picture(np.full((2, 2), np.nan), (0, 1)).any()
    assert picture(np.full((1, 2, 2), 3.0), Scalar("m")).any()


def test_shared_limits_make_pictures_comparable() -> None:
    near, far = np.full((1, 1, 1), 1.0), np.full((1, 1, 1), 9.0)
    shared = [picture(depth, Scalar("m"), limits=(0, 10)) for depth in (near, far)]
    assert (shared[0] != shared[1]).any()
    np.testing.assert_array_equal(picture(near, Scalar("m")), picture(far, Scalar("m")))


@given(arrays(np.float64, (3, 2, 2), elements=st.floats(-1, 1)))
def test_vectors_map_linearly(vectors: np.ndarray) -> None:
    found = vector_picture(vectors).astype(float) / 255 * 2 - 1
    np.testing.assert_allclose(found, vectors.transpose(1, 2, 0), atol=1 / 255 + 1e-9)


def test_the_range_ignores_outliers_and_what_is_not_finite() -> None:
    values = np.concatenate([np.linspace(1, 2, 1000), [1e9, np.nan, np.inf, -np.inf]])
    low, high = value_range(values)
    assert low == pytest.approx(1.02, abs=0.01)
    assert high == pytest.approx(1.98, abs=0.01)
    assert value_range(np.full(3, np.nan)) == (0.0, 1.0)


def test_the_caption_explains_the_colors() -> None:
    assert caption("depth", Scalar("m"), (0.71, 4.256)) == "depth 0.71 to 4.26 m"
    assert caption("normals", UnitVector(), (0, 1)) == "normals"


def test_a_grid_holds_every_picture_in_its_place(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = [[random.integers(0, 255, (30, 100, 3), dtype=np.uint8) for _ in range(3)] for _ in range(2)]
    save_grid(tmp_path / "new/grid.png", rows, ["image", "truth", "depth"])
    with Image.open(tmp_path / "new/grid.png") as grid:
        pixels = np.asarray(grid)
    for row in rows:
        for cell in row:
            enlarged = cell.repeat(2, axis=0).repeat(2, axis=1)
            height, width = enlarged.shape[:2]
            windows = np.lib.stride_tricks.sliding_window_view(pixels[..., 0], (height, width))
            places = np.argwhere(windows[:, :, 0, 0] == enlarged[0, 0, 0])
            assert any((pixels[y : y + height, x : x + width] == enlarged).all() for y, x in places)
    titles = pixels[:14]
    assert (titles < 128).any(), "the titles are drawn"
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new/grid.png"]


def test_the_legend_names_the_classes_that_occur_in_their_colors() -> None:
    maps = np.array([[-1, 3, 3]]), np.array([[1, 3]])
    colors = legend(OUTPUTS[0], *maps)
    assert list(colors) == ["b", "d"]
    np.testing.assert_array_equal(class_picture(maps[1])[0], list(colors.values()))


@pytest.mark.parametrize("columns", [1, 4])
def test_every_color_of_a_legend_is_below_the_pictures(tmp_path: Path, columns: int) -> None:
    output = Classes(tuple(f"something long {index}" for index in range(20)))
    colors = legend(output, np.arange(20))
    cells = [np.full((30, 200, 3), 77, np.uint8)] * columns
    legends = {"streets": colors, "rooms": dict(list(colors.items())[:2])}
    save_grid(tmp_path / "grid.png", [cells], [""] * columns, legends)
    with Image.open(tmp_path / "grid.png") as grid:
        pixels = np.asarray(grid)
    below = pixels[16 + 30 :]  # titles and pictures
    for name, color in colors.items():
        swatches = (below == color).all(axis=2).sum() / 11**2
        assert swatches >= (2 if name in legends["rooms"] else 1), name
    assert (below[:, -2:] == 255).all(), "no line is cut off"


def test_a_grid_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "grid.png/in the way").mkdir(parents=True)
    with pytest.raises(SetupError, match=r"grid\.png: expected a place to write"):
        save_grid(tmp_path / "grid.png", [[np.zeros((4, 4, 3), np.uint8)]], ["a"])
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]


def test_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(SetupError, match=r"pip install 'edgemtl\[ort\]'"):
        save_grid(tmp_path / "grid.png", [[np.zeros((4, 4, 3), np.uint8)]], ["a"])
