from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from PIL import Image

from edgemtl.core.errors import DataError, UsageError
from edgemtl.data import Folder, NYUv2
from edgemtl.data.labels import ClassFiles, DepthFiles, NormalFiles
from edgemtl.data.nyuv2 import CLASSES
from tests.data.pictures import NAMES, SIZE, VOID, folder, write


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_a_sample_holds_what_the_pictures_hold(tmp_path: Path) -> None:
    split = folder(write(tmp_path)).dataset("val")
    sample, files = split[2], tmp_path / "val"
    assert (sample.id, split.size, len(split)) == ("val/2", SIZE, 3)
    image = np.moveaxis(pixels(files / "image/2.png"), -1, 0) / 255
    np.testing.assert_allclose(sample.image, image, atol=1e-6)
    classes = pixels(files / "segmentation/2.png").astype(int)
    np.testing.assert_array_equal(sample.labels["segmentation"], np.where(classes == VOID, -1, classes))
    meters = pixels(files / "distance/2.png") / 1000
    np.testing.assert_allclose(sample.labels["depth"][0], meters, rtol=1e-5)
    normals = np.moveaxis(pixels(files / "normals/2.png"), -1, 0) / 127.5 - 1
    np.testing.assert_allclose(sample.labels["normals"], normals, atol=0.02)
    assert sample.labels["normals"].norm(dim=0).numpy() == pytest.approx(1, abs=1e-6)
    assert split.labels["segmentation"].names == NAMES


@pytest.mark.parametrize("cache", [True, False])
def test_an_image_without_a_label_has_no_valid_pixel_of_it(tmp_path: Path, cache: bool) -> None:
    split = folder(write(tmp_path), cache=cache).dataset("train")
    valid = [bool(split.labels["depth"].valid(sample.labels["depth"]).any()) for sample in split]
    assert valid == [True, False, True]


def test_what_nyuv2_reads_can_be_said_as_a_folder(nyuv2_root: Path) -> None:
    labels = {
        "segmentation": ClassFiles(folder="label", names=CLASSES),
        "depth": DepthFiles(),
        "normals": NormalFiles(folder="normal"),
    }
    ours = Folder(root=str(nyuv2_root), labels=labels, holdout=2).dataset("holdout")
    for found, expected in zip(ours, NYUv2(root=str(nyuv2_root), holdout=2).dataset("holdout"), strict=True):
        assert found.id == expected.id and torch.equal(found.image, expected.image)
        assert all(torch.equal(found.labels[name], label) for name, label in expected.labels.items())


def test_images_of_several_sizes_need_a_size(tmp_path: Path) -> None:
    root = write(tmp_path)
    for kind in ("image", "segmentation", "normals"):
        path = root / "train" / kind / "1.png"
        Image.fromarray(pixels(path)[:-2, :-1]).save(path)
    with pytest.raises(DataError, match=r"1\.png: expected shape \[6, 8, 3\].*found \[4, 7, 3\]. Set `size`"):
        list(folder(root).dataset("train"))
    assert {tuple(sample.image.shape) for sample in folder(root, size=(3, 4)).dataset("train")} == {(3, 3, 4)}


def test_frames_stand_by_their_numbers_video_after_video(tmp_path: Path) -> None:
    root = write(tmp_path)
    assert "video" not in folder(root).splits
    names = ["yard-9", "yard-10", "b2-1", "b2-02", "yard-11"]
    for kind in ("image", "segmentation", "distance", "normals"):
        (root / "video" / kind).mkdir(parents=True)
        for name in names:
            shutil.copy(root / "val" / kind / "0.png", root / "video" / kind / f"{name}.png")
    assert "video" in folder(root).splits
    split = folder(root).dataset("video")
    found = [sample.id for sample in split]
    assert found == [f"video/{name}" for name in ("b2-1", "b2-02", "yard-9", "yard-10", "yard-11")]
    assert split.firsts == {0, 2}
    assert folder(root).dataset("val").firsts == set()


def test_a_label_without_an_image_and_folders_without_files_are_named(tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "train/image/1.png").unlink()
    with pytest.raises(DataError, match=r"train/normals/1\.png: expected an image of that name"):
        folder(root).dataset("train")
    labels = {"lanes": ClassFiles(names=NAMES)}
    with pytest.raises(DataError, match=r"val/lanes: expected files .*found none"):
        folder(root, labels=labels).dataset("val")


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "val/image/1.jpg").write_bytes((root / "val/image/1.png").read_bytes())
    with pytest.raises(DataError, match=r"1\.png: expected one file of a name, found 1\.jpg too"):
        folder(root).dataset("val")


def test_a_recipe_says_it_all() -> None:
    spec = msgspec.convert(
        {
            "type": "folder",
            "root": "data/street",
            "size": [256, 512],
            "labels": {
                "segmentation": {"type": "classes", "names": ["road", "car"], "void": [2, 255]},
                "depth": {"type": "depth", "meters": 0.001},
            },
        },
        Folder,
    )
    assert spec.labels["segmentation"] == ClassFiles(names=("road", "car"), void=(2, 255))
    with pytest.raises(msgspec.ValidationError, match=r"\$\.labels"):
        msgspec.convert({"type": "folder", "root": "x", "labels": {}}, Folder)


def test_a_label_that_no_image_of_a_split_has_is_refused(tmp_path: Path) -> None:
    """Else its task would be trained, or chosen by, on nothing."""
    root = write(tmp_path)
    (root / "train/distance/2.png").unlink()  # which leaves that of 0, and 0 is held out
    with pytest.raises(DataError, match="an image of `train` with the label `depth`, found none among 2"):
        folder(root, holdout=1).dataset("train")
    assert len(folder(root, holdout=1).dataset("holdout")) == 1


def test_another_folder_is_other_data(tmp_path: Path) -> None:
    assert folder(tmp_path / "a").name != folder(tmp_path / "b").name
    assert NYUv2(root="a").name == NYUv2(root="b").name == "nyuv2"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"image": {"type": "depth"}}, "found `image`, which are the images"),
        ({"lanes": {"type": "classes", "names": ["a", "b"], "void": [1]}}, r"outside 0\.\.1.*found 1"),
        (
            {"lanes": {"type": "classes", "names": ["a", "b"], "void": [2], "first": 1}},
            r"outside 1\.\.2.*found 2",
        ),
        ({"lanes": {"type": "classes", "names": ["a", "b", "a"]}}, "found `a` twice"),
        ({"all": {"type": "classes", "names": [str(i) for i in range(300)]}}, "found 255"),
    ],
)
def test_labels_that_would_be_misread_are_refused(labels: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        msgspec.convert({"type": "folder", "root": "x", "labels": labels}, Folder)
