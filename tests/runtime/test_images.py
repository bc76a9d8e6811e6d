from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from edgemtl.core.bundle import InputInfo
from edgemtl.core.errors import DataError, SetupError
from edgemtl.runtime.images import load_image, pictures_of

INFO = InputInfo(height=4, width=6, batch=(1, 1))
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)


@settings(deadline=None)  # files
@given(pixels=arrays(np.uint8, (4, 6, 3)))
def test_pixels_of_the_right_size_arrive_unchanged(
    tmp_path_factory: pytest.TempPathFactory, pixels: np.ndarray
) -> None:
    path = tmp_path_factory.mktemp("pictures") / "a.png"
    Image.fromarray(pixels).save(path)
    image = load_image(path, INFO)
    assert image.dtype == np.float32
    assert image.shape == (1, 3, 4, 6)
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(np.rint(image[0].transpose(1, 2, 0) * 255), pixels)


@settings(deadline=None)  # files
@given(height=st.integers(1, 40), width=st.integers(1, 40), level=st.integers(0, 255))
def test_a_flat_picture_of_any_size_stays_flat(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, level: int
) -> None:
    path = tmp_path_factory.mktemp("pictures") / "a.png"
    Image.new("RGB", (width, height), (level, 0, 255)).save(path)
    image = load_image(path, INFO)
    assert image.shape == (1, 3, 4, 6)
    for channel, value in enumerate((level / 255, 0, 1)):
        np.testing.assert_allclose(image[0, channel], value, atol=1e-6)


def test_resizing_keeps_left_and_top_where_they_are(tmp_path: Path) -> None:
    pixels = np.zeros((8, 12, 3), np.uint8)
    pixels[:, :6, 0] = pixels[:4, :, 1] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    red, green, _ = load_image(tmp_path / "a.png", INFO)[0]
    assert red[:, :2].min() > 0.9
    assert red[:, 4:].max() < 0.1
    assert green[:1].min() > 0.8
    assert green[3:].max() < 0.2


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_other_color_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (6, 4)).save(tmp_path / "a.tiff")
    assert load_image(tmp_path / "a.tiff", INFO).shape == (1, 3, 4, 6)


def test_a_palette_with_transparent_colors_becomes_rgb(tmp_path: Path) -> None:
    picture = Image.new("P", (6, 4), 1)
    picture.putpalette([0, 0, 0, 200, 100, 50])
    picture.save(tmp_path / "a.png", transparency=b"\x00\x80")
    found = load_image(tmp_path / "a.png", INFO)
    np.testing.assert_allclose(found[0, :, 0, 0], np.array([200, 100, 50]) / 255, rtol=1e-6)


def test_a_rotated_photograph_is_set_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    image = load_image(tmp_path / "a.png", INFO)[0].transpose(1, 2, 0)
    np.testing.assert_array_equal(np.rint(image * 255), PIXELS[::-1, ::-1])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_arrays_in_either_layout(tmp_path: Path, dtype: type) -> None:
    pixels = (PIXELS / 255).astype(dtype)
    np.save(tmp_path / "rows.npy", pixels)
    np.save(tmp_path / "planes.npy", pixels.transpose(2, 0, 1))
    for name in "rows.npy", "planes.npy":
        image = load_image(tmp_path / name, INFO)
        assert image.dtype == np.float32
        np.testing.assert_array_equal(image[0], pixels.transpose(2, 0, 1).astype(np.float32))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 6)),
        np.zeros((4, 6, 1)),
        np.zeros((1, 3, 4, 6)),
        np.zeros((0, 6, 3)),
        np.zeros((4, 6, 3), np.uint8),
        np.full((4, 6, 3), np.nan),
        np.full((4, 6, 3), 255.0),
        np.full((4, 6, 3), -0.1),
        np.array([{"a": 1}]),
    ],
    ids=["gray", "one channel", "batch", "empty", "bytes", "nan", "255", "negative", "pickle"],
)
def test_arrays_that_are_no_picture(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match=r"a\.npy: expected an RGB picture"):
        load_image(tmp_path / "a.npy", INFO)


def test_a_depth_map_is_no_rgb_picture(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 6), 40000, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="one of mode I"):
        load_image(tmp_path / "a.png", INFO)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".npy"])
def test_damaged_files_are_named(tmp_path: Path, suffix: str) -> None:
    whole = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    if suffix == ".npy":
        np.save(whole, noise / 255)
    else:
        Image.fromarray(noise).save(whole, format={".png": "PNG", ".jpg": "JPEG"}[suffix])
    path = tmp_path / f"a{suffix}"
    for content in b"", b"not a picture", whole.getvalue()[: len(whole.getvalue()) // 2]:
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"a\{suffix}: expected an RGB picture"):
            load_image(path, INFO)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_image(tmp_path / "a.png", INFO)


def test_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(SetupError, match=r"pip install 'edgemtl\[ort\]'"):
        load_image(tmp_path / "a.png", INFO)


def test_whatever_a_parser_raises_is_an_error_of_the_data(tmp_path: Path) -> None:
    jpeg = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112], exif[0x0100] = 6, 12  # orientation and width
    Image.fromarray(PIXELS).save(jpeg, format="JPEG", exif=exif)
    broken = jpeg.getvalue().replace(b"\x01\x00\x00\x04", b"\x01\x00\x00\x02")  # the width as text
    assert broken != jpeg.getvalue()
    (tmp_path / "a.jpg").write_bytes(broken)
    with pytest.raises(DataError, match=r"a\.jpg: expected an RGB picture"):
        load_image(tmp_path / "a.jpg", INFO)


def test_an_archive_is_no_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", image=PIXELS / 255)
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(DataError, match=r"a\.npy: expected an RGB picture"):
        load_image(tmp_path / "a.npy", INFO)


def test_a_suffix_may_be_in_capitals(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", PIXELS / 255)
    (tmp_path / "a.npy").rename(tmp_path / "a.NPY")
    assert load_image(tmp_path / "a.NPY", INFO).shape == (1, 3, 4, 6)


def test_the_pictures_of_a_folder_are_not_its_hidden_files(tmp_path: Path) -> None:
    for name in "b.png", "a.JPG", "._a.JPG", "notes.txt":  # the third is what a Mac leaves
        (tmp_path / name).touch()
    assert [path.name for path in pictures_of(tmp_path)] == ["a.JPG", "b.png"]
    (tmp_path / "manifest.json").touch()  # of a dataset, say
    assert len(pictures_of(tmp_path)) == 2
    (tmp_path / "b.png").unlink()
    (tmp_path / "a.JPG").unlink()
    with pytest.raises(DataError, match=r"found a bundle\. Name the bundle first"):
        pictures_of(tmp_path)
