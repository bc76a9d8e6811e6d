from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from edgemtl.core.errors import DataError, UsageError
from edgemtl.data.nyuv2 import CLASSES, NYUv2

SIZE = (4, 6)


def write(root: Path, images: int = 12, dtype: type = np.float16) -> Path:
    """A set of random images in the layout of the MTAN release."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for index in range(images):
            normal = rng.normal(size=(*SIZE, 3))
            arrays = {
                "image": rng.random((*SIZE, 3)).astype(dtype),
                "label": rng.integers(-1, 13, SIZE).astype(np.int16),
                "depth": rng.uniform(0.7, 9.9, (*SIZE, 1)).astype(dtype),
                "normal": (normal / np.linalg.norm(normal, axis=-1, keepdims=True)).astype(dtype),
            }
            for folder, array in arrays.items():
                path = root / split / folder / f"{index}.npy"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, array)
    return root


def damage(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], object]:
    return lambda path: np.save(path, change(np.load(path)))


def with_one(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array = array.astype(np.float64)
        array.flat[5] = value
        return array

    return change


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("cache", [True, False])
def test_a_sample_holds_what_the_files_hold(tmp_path: Path, dtype: type, cache: bool) -> None:
    split = NYUv2(root=str(write(tmp_path, dtype=dtype)), cache=cache).dataset("val")
    sample = split[10]
    files = {
        folder: np.load(tmp_path / "val" / folder / "10.npy")
        for folder in ("image", "label", "depth", "normal")
    }
    assert (sample.id, split.size, len(split)) == ("val/10", SIZE, 12)
    assert sample.image.numpy() == pytest.approx(np.moveaxis(files["image"], -1, 0), abs=1e-6)
    assert (sample.labels["segmentation"].numpy() == files["label"]).all()
    assert sample.labels["depth"].numpy() == pytest.approx(np.moveaxis(files["depth"], -1, 0), rel=1e-6)
    assert sample.labels["normals"].numpy() == pytest.approx(np.moveaxis(files["normal"], -1, 0), abs=1e-3)
    assert sample.labels["normals"].norm(dim=0).numpy() == pytest.approx(1, abs=1e-6)


def test_invalid_normals_stay_zero(tmp_path: Path) -> None:
    path = write(tmp_path, images=1) / "train" / "normal" / "0.npy"
    normal = np.load(path)
    normal[1, 2] = 0
    np.save(path, normal)
    valid = NYUv2(root=str(tmp_path)).dataset("train")[0].labels["normals"].any(dim=0)
    assert valid.sum() == valid.numel() - 1
    assert not valid[1, 2]


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 11))
def test_what_is_held_out_is_spread_and_not_trained_on(tmp_path: Path, holdout: int) -> None:
    if not (tmp_path / "train").exists():
        write(tmp_path)
    spec = NYUv2(root=str(tmp_path), holdout=holdout)
    train, held = ([int(s.id.split("/")[1]) for s in spec.dataset(split)] for split in ("train", "holdout"))
    assert len(held) == holdout
    assert sorted(train + held) == list(range(12))
    assert spec.splits == ("train", "val", "holdout")
    gaps = np.diff([*held, held[0] + 12])
    assert gaps.max() - gaps.min() <= 1


def test_more_cannot_be_held_out_than_there_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="more than the 12 images to hold out, found 12"):
        NYUv2(root=str(write(tmp_path)), holdout=12).dataset("train")


@pytest.mark.parametrize(
    ("file", "harm", "message"),
    [
        ("image/3.npy", Path.unlink, "the same files in each of .*found 1 missing here"),
        ("depth/3.npy", Path.unlink, "the same files in each of .*found 1 missing here"),
        ("label/3.npy", lambda path: path.write_bytes(b""), "a whole .npy file"),
        ("label/3.npy", lambda path: path.write_text("no array"), "a whole .npy file"),
        ("normal/3.npy", lambda path: path.write_bytes(path.read_bytes()[:-1]), "a whole .npy file"),
        ("normal/3.npy", lambda path: np.save(path, np.array([{"a": 1}])), "a whole .npy file"),
        ("image/3.npy", lambda path: np.save(path, np.array(["text"])), "numbers, found <U4"),
        ("image/3.npy", damage(lambda a: a[:-1]), r"shape \[4, 6, 3\].*found \[3, 6, 3\]"),
        ("image/0.npy", damage(lambda a: a.transpose(2, 0, 1)), r"\[height, width, 3\], found \[3, 4, 6\]"),
        ("image/0.npy", damage(lambda a: a[:0]), r"\[height, width, 3\], found \[0, 6, 3\]"),
        ("depth/3.npy", damage(lambda a: a[:, 1:]), r"shape \[4, 6, 1\].*found \[4, 5, 1\]"),
        ("label/3.npy", damage(with_one(np.nan)), r"values in 0\.\.12, found NaN"),
        ("depth/3.npy", damage(with_one(np.nan)), "found NaN"),
        ("depth/3.npy", damage(with_one(np.inf)), r"found .*\.\.inf"),
        ("depth/3.npy", damage(lambda a: a * 1000.0), r"values in 0\.\.100.*in meters"),
        ("depth/3.npy", damage(with_one(-0.1)), r"found -0\.1\.\."),
        ("normal/3.npy", damage(with_one(1.5)), r"found .*\.\.1\.5"),
        (
            "image/3.npy",
            damage(lambda a: (a * 255).astype(np.uint8)),
            r"values in 0\.\.1, found \d+\.\.2\d\d",
        ),
        ("label/3.npy", damage(with_one(13)), r"values in 0\.\.12, found 0\.\.13"),
        ("label/3.npy", damage(with_one(-2)), r"found -2\.\."),
        ("label/3.npy", damage(with_one(0.5)), "whole numbers, found fractions"),
    ],
)
@pytest.mark.parametrize("cache", [True, False])
def test_a_damaged_file_is_named(
    tmp_path: Path, file: str, harm: Callable[[Path], object], message: str, cache: bool
) -> None:
    path = write(tmp_path) / "train" / file
    harm(path)
    with pytest.raises(DataError, match=message) as raised:
        list(NYUv2(root=str(tmp_path), cache=cache).dataset("train"))
    assert raised.value.where == str(path)


def test_samples_are_read_when_they_are_asked_for_and_once(tmp_path: Path) -> None:
    folder = write(tmp_path) / "val"
    split = NYUv2(root=str(tmp_path)).dataset("val")
    first = split[3]
    for path in folder.glob("*/[3-5].npy"):
        path.unlink()
    again = split[3]
    assert again.id == first.id == "val/3"
    assert torch.equal(again.image, first.image)
    assert all(torch.equal(again.labels[name], label) for name, label in first.labels.items())
    for read in (split.preload, lambda: split[4]):
        with pytest.raises(DataError, match=r"4\.npy: expected a whole .npy file"):
            read()


def test_what_is_preloaded_needs_no_files(tmp_path: Path) -> None:
    folder = write(tmp_path, images=3) / "train"
    plain = list(NYUv2(root=str(tmp_path), cache=False).dataset("train"))
    split = NYUv2(root=str(tmp_path)).dataset("train")
    split.preload()
    for path in folder.glob("*/*.npy"):
        path.unlink()
    for found, expected in zip(split, plain, strict=True):
        assert found.id == expected.id
        assert torch.equal(found.labels["segmentation"], expected.labels["segmentation"])
        assert torch.equal(found.image, expected.image)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 127), st.binary(min_size=1, max_size=4))
def test_no_damage_to_a_header_gives_another_error(tmp_path: Path, at: int, junk: bytes) -> None:
    path = write(tmp_path, images=1) / "train" / "label" / "0.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + junk + whole[at + len(junk) :])
    try:
        NYUv2(root=str(tmp_path)).dataset("train")
    except DataError as error:
        assert error.where == str(path)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere/train/image: expected files \(\.npy, .*\), found none"):
        NYUv2(root=str(tmp_path / "nowhere")).dataset("train")
    with pytest.raises(UsageError, match=r"a split of nyuv2, found `vall`\. Did you mean `val`\?"):
        NYUv2(root=str(tmp_path)).dataset("vall")
    with pytest.raises(UsageError, match="found `holdout`"):
        NYUv2(root=str(tmp_path)).dataset("holdout")


def test_a_negative_holdout_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"\$\.holdout"):
        msgspec.convert({"type": "nyuv2", "root": "x", "holdout": -1}, NYUv2)


def test_the_real_set(nyuv2_root: Path) -> None:
    for split in ("train", "val"):
        images = NYUv2(root=str(nyuv2_root)).dataset(split)
        assert (len(images), images.size) == (8, (72, 96))
        normals = torch.stack([sample.labels["normals"] for sample in images])
        classes = torch.stack([sample.labels["segmentation"] for sample in images])
        floor = normals.movedim(1, -1)[classes == CLASSES.index("floor")]
        assert floor[:, 1].mean() < -0.7  # y points down, so floors face the other way: the frame is right
        assert (normals[:, 2] < 0).float().mean() > 0.9  # what is seen faces the camera


def test_a_size_resizes_what_is_read(nyuv2_root: Path) -> None:
    stored = NYUv2(root=str(nyuv2_root)).dataset("train")[0]
    halved = NYUv2(root=str(nyuv2_root), size=(36, 48)).dataset("train")
    assert halved.size == (36, 48)
    sample = halved[0]
    for name, label in sample.labels.items():
        assert torch.equal(label, stored.labels[name][..., 1::2, 1::2]), name
