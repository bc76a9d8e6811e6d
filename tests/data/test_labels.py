from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from PIL import Image

from edgemtl.core.errors import DataError
from edgemtl.data.labels import ClassFiles, DepthFiles, LabelFiles, NormalFiles, load_image
from tests.data.pictures import NAMES

SIZE = (4, 5)
CLASSES = np.arange(20, dtype=np.uint8).reshape(SIZE) % len(NAMES)


def saved(path: Path, array: np.ndarray) -> Path:
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path)
    return path


def test_classes_are_read_from_gray_palette_and_16_bits_alike(tmp_path: Path) -> None:
    files = ClassFiles(names=NAMES)
    palette = Image.fromarray(CLASSES, mode="P")
    palette.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
    palette.save(tmp_path / "palette.png")
    paths = [
        tmp_path / "palette.png",
        saved(tmp_path / "gray.png", CLASSES),
        saved(tmp_path / "deep.png", CLASSES.astype(np.uint16)),
        saved(tmp_path / "array.npy", CLASSES.astype(np.float32)),
    ]
    for path in paths:
        label = files.load(path, SIZE)
        assert label.dtype == torch.int64
        np.testing.assert_array_equal(label, CLASSES)


def test_classes_may_begin_at_1(tmp_path: Path) -> None:
    """As in ADE20K, where 0 is not labeled."""
    stored = CLASSES + 1
    stored[0, :2] = 0, 255
    expected = CLASSES.astype(np.int64)
    expected[0, :2] = -1
    files = ClassFiles(names=NAMES, first=1, void=(0, 255))
    np.testing.assert_array_equal(files.load(saved(tmp_path / "a.png", stored), SIZE), expected)
    with pytest.raises(DataError, match=r"values in 1\.\.3, found 0\.\.3"):
        ClassFiles(names=NAMES, first=1).load(saved(tmp_path / "b.png", stored), SIZE)


@pytest.mark.parametrize("invalid", [0, 127, 128])
def test_a_gray_or_black_normal_is_none(tmp_path: Path, invalid: int) -> None:
    array = np.full((*SIZE, 3), (255, 127, 127), np.uint8)
    array[1, 2] = invalid
    normals = NormalFiles().load(saved(tmp_path / "n.png", array), SIZE)
    assert (normals != 0).any(dim=0).sum() == 19 and not normals[:, 1, 2].any()


@pytest.mark.parametrize(
    ("files", "name", "array", "message"),
    [
        (ClassFiles(names=NAMES), "a.png", CLASSES + 1, r"values in 0\.\.2, found 1\.\.3.*`void`"),
        (
            ClassFiles(names=NAMES),
            "a.png",
            CLASSES[1:],
            r"shape \[4, 5\], as its image has it, found \[3, 5\]",
        ),
        (ClassFiles(names=NAMES), "a.npy", CLASSES / 2, "whole numbers, found fractions"),
        (ClassFiles(names=NAMES), "a.jpg", CLASSES, r"stored exactly, found \.jpg"),
        (DepthFiles(), "a.jpg", CLASSES, r"distances that are stored exactly, found \.jpg"),
        (DepthFiles(), "a.png", np.full(SIZE, 2000, np.uint16), r"values in 0\.\.1000, found 2000.*`meters`"),
        (DepthFiles(), "a.npy", np.full(SIZE, -1.0), r"found -1"),
        (DepthFiles(), "a.npy", np.full(SIZE, np.nan), "found NaN"),
        (NormalFiles(), "a.png", CLASSES, r"shape \[4, 5, 3\].*found \[4, 5\]"),
        (NormalFiles(), "a.npy", np.full((*SIZE, 3), 2.0), r"values in -1\.01\.\.1\.01, found 2"),
    ],
)
def test_what_makes_no_sense_is_named(
    tmp_path: Path, files: LabelFiles, name: str, array: np.ndarray, message: str
) -> None:
    path = saved(tmp_path / name, array)
    with pytest.raises(DataError, match=message) as raised:
        files.load(path, SIZE)
    assert raised.value.where == str(path)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK"])
def test_any_color_picture_is_an_image(tmp_path: Path, mode: str) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", SIZE[::-1], (51, 51, 51)).convert(mode).save(path)
    image = load_image(path)
    assert image.shape == (3, *SIZE)
    assert image.numpy() == pytest.approx(0.2, abs=0.02)


def test_an_image_is_turned_upright(tmp_path: Path) -> None:
    picture = Image.new("RGB", (5, 4))
    exif = picture.getexif()
    exif[0x0112] = 6  # the camera was held on its side
    picture.save(tmp_path / "a.jpg", exif=exif)
    assert load_image(tmp_path / "a.jpg").shape == (3, 5, 4)


def test_a_depth_map_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\[height, width, 3\], found \[4, 5\]"):
        load_image(saved(tmp_path / "a.png", np.full(SIZE, 2000, np.uint16)))


def test_a_mask_in_colors_is_told_what_it_should_be(tmp_path: Path) -> None:
    path = saved(tmp_path / "colors.png", np.zeros((*SIZE, 3), np.uint8))
    with pytest.raises(DataError, match=r"expected an index for each pixel, found 3 channels.*palette"):
        ClassFiles(names=NAMES).load(path, SIZE)
