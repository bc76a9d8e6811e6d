from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from PIL import Image

from edgemtl.core.errors import DataError
from edgemtl.data.reading import names_in, read


def test_names_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("10.png", "2.npy", "1.PNG", "notes.txt", ".3.png"):
        (tmp_path / name).touch()
    assert list(names_in(tmp_path)) == ["1", "2", "10"]
    assert names_in(tmp_path / "nowhere") == {}


@pytest.mark.parametrize("suffix", ["npy", "png", "jpg", "tif"])
def test_a_file_that_is_cut_short_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    array = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    if suffix == "npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path)
    assert read(path).shape == array.shape
    for keep in (0, 40, path.stat().st_size // 2):
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(DataError, match=rf"a whole \.{suffix} file") as raised:
            read(path)
        assert raised.value.where == str(path)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_gray_of_few_bits_is_read_as_it_is_stored(tmp_path: Path, bits: int) -> None:
    """As tools write it that know of few classes; Pillow writes none of 2 and 4 bits."""
    classes = np.random.default_rng(0).integers(0, 1 << bits, (3, 8)).astype(np.uint8)
    unpacked = np.unpackbits(classes[..., None], axis=-1)[..., -bits:]
    rows = np.packbits(unpacked.reshape(3, -1), axis=-1)
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", 8, 3, bits, 0, 0, 0, 0),
        b"IDAT": zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)),
        b"IEND": b"",
    }
    png = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks.items():
        png += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    (tmp_path / "a.png").write_bytes(png)
    np.testing.assert_array_equal(read(tmp_path / "a.png"), classes)


@pytest.mark.parametrize("bits", [2, 4])
def test_so_is_a_tiff(tmp_path: Path, bits: int) -> None:
    classes = np.random.default_rng(0).integers(0, 1 << bits, (3, 8)).astype(np.uint8)
    rows = np.packbits(np.unpackbits(classes[..., None], axis=-1)[..., -bits:].reshape(3, -1), axis=-1)
    # Width, height, bits, uncompressed, 0 is black, offset and number of bytes.
    tags = {256: 8, 257: 3, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: 3, 279: rows.size}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    header = struct.pack("<2sHI", b"II", 42, 8 + rows.size)
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    (tmp_path / "a.tif").write_bytes(header + rows.tobytes() + directory)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), classes)


def test_half_floats_become_floats_and_integers_stay(tmp_path: Path) -> None:
    for dtype, expected in ((np.float16, np.float32), (np.float64, np.float32), (np.uint16, np.uint16)):
        np.save(tmp_path / "a.npy", np.ones((2, 2), dtype))
        assert read(tmp_path / "a.npy").dtype == expected


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:  # root may read all
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match="expected a folder to read, found Permission denied"):
        names_in(tmp_path)
