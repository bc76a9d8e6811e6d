from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgemtl.core.errors import DataError, UsageError
from edgemtl.predict import predict
from tests.fixtures.places import TINY


@pytest.fixture
def image(tmp_path: Path) -> Path:
    np.save(tmp_path / "room.npy", np.random.default_rng(0).random((12, 16, 3), np.float32))
    return tmp_path / "room.npy"


def test_two_images_of_one_name_would_overwrite_each_other(image: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError, match=r"found .*room\.npy and .*elsewhere.room\.png\. Rename one"):
        list(predict(TINY, [image, tmp_path / "elsewhere" / "room.png"], out))
    assert not out.exists()


def test_a_folder_stands_for_the_pictures_in_it(image: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "album.png").mkdir()
    np.save(tmp_path / "attic.npy", np.zeros((12, 16, 3), np.float32))
    out = tmp_path / "out"
    found = list(predict(TINY, [tmp_path], out))
    assert found == [out / "attic.png", out / "room.png"]


def test_an_image_is_never_replaced_by_its_prediction(tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.new("RGB", (16, 12), "teal").save(photo)
    before = photo.read_bytes()
    (tmp_path / "link").symlink_to(tmp_path)
    for out in (tmp_path, tmp_path / "link"):
        for name in "photo.png", "photo.bmp":  # the second has a neighbor of that name
            Image.new("RGB", (16, 12), "teal").save(tmp_path / name)
            with pytest.raises(UsageError, match=r"--out: expected a folder without the images"):
                list(predict(TINY, [tmp_path / name], out))
    assert photo.read_bytes() == before


def test_no_picture_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(DataError, match=r"expected pictures, or a bundle .*, found notes.txt"):
        list(predict(TINY, [tmp_path], tmp_path / "out"))
    with pytest.raises(UsageError, match=r"images: expected a picture or more"):
        list(predict(TINY, [], tmp_path / "out"))


def test_an_unknown_task_is_refused_with_the_nearest(image: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"`dept`.*`depth`"):
        list(predict(TINY, [image], tmp_path / "out", tasks=["segmentation", "dept"]))
    assert not (tmp_path / "out").exists()


def test_only_the_tasks_that_are_asked_for_are_written(image: Path, tmp_path: Path) -> None:
    (path,) = predict(TINY, [image], tmp_path / "out", tasks=["depth"])
    assert path == tmp_path / "out" / "room.png"
    assert set(np.load(path.with_suffix(".npz"))) == {"depth"}


def test_a_photo_is_not_replaced_through_a_link(image: Path, tmp_path: Path) -> None:
    before = image.read_bytes()
    for folder, name in (("album", image.name), ("out", f"{image.stem}.npz")):
        (tmp_path / folder).mkdir()
        link = tmp_path / folder / name
        link.symlink_to(image)
        given = link if folder == "album" else image
        with pytest.raises(UsageError, match=r"--out: expected a folder without the images"):
            list(predict(TINY, [given], tmp_path / folder))
    assert image.read_bytes() == before
