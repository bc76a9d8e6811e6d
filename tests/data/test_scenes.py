from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from edgemtl.data.base import Sample
from edgemtl.data.furniture import CLASSES
from edgemtl.data.raycast import Shape, Solid
from edgemtl.data.scenes import Scenes, draw_scene

SMALL = Scenes(size=(48, 64), train=120, val=120)


def digest(sample: Sample) -> str:
    tensors = (sample.image, *(sample.labels[name] for name in sorted(sample.labels)))
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()


def within(tensor: torch.Tensor, low: float, high: float) -> bool:
    return bool(((tensor >= low) & (tensor <= high)).all())


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    split = SMALL.dataset("train")
    return [split[index] for index in range(len(split))]


def test_samples_have_the_promised_shapes_types_and_ranges(samples: list[Sample]) -> None:
    split = SMALL.dataset("train")
    assert split.size == (48, 64)
    assert list(split.labels) == ["segmentation", "depth", "normals"]
    assert split.labels["segmentation"].names == CLASSES
    for sample in samples:
        assert sample.image.shape == (3, 48, 64)
        assert sample.image.dtype == torch.float32
        assert within(sample.image, 0, 1)
        classes, depth, normals = (sample.labels[name] for name in split.labels)
        assert (classes.shape, classes.dtype) == ((48, 64), torch.int64)
        assert within(classes, 0, len(CLASSES) - 1)
        assert (depth.shape, depth.dtype) == ((1, 48, 64), torch.float32)
        assert within(depth, 0.05, 10)
        assert (normals.shape, normals.dtype) == ((3, 48, 64), torch.float32)
        torch.testing.assert_close(normals.norm(dim=0), torch.ones(48, 64), atol=1e-5, rtol=0)


def test_a_sample_follows_from_seed_split_and_index_in_every_process(samples: list[Sample]) -> None:
    program = (
        "from edgemtl.data.scenes import Scenes; import hashlib\n"
        "s = Scenes(size=(48, 64), train=120, val=120).dataset('train')[17]\n"
        "t = (s.image, *(s.labels[n] for n in sorted(s.labels)))\n"
        "print(hashlib.sha256(b''.join(x.numpy().tobytes() for x in t)).hexdigest())"
    )
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "2")
    elsewhere = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **threads, "PYTHONHASHSEED": "5"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert elsewhere.stdout.strip() == digest(samples[17]) == digest(SMALL.dataset("train")[17])


def test_no_scene_comes_twice_in_any_split_or_seed(samples: list[Sample]) -> None:
    others = (SMALL.dataset("val"), msgspec.structs.replace(SMALL, seed=1).dataset("train"))
    depths = [sample.labels["depth"] for sample in samples]
    depths += [split[index].labels["depth"] for split in others for index in range(60)]
    assert len({depth.numpy().tobytes() for depth in depths}) == len(depths)


def test_a_larger_split_begins_with_the_smaller_one(samples: list[Sample]) -> None:
    more = msgspec.structs.replace(SMALL, train=1000, val=7)
    assert digest(more.dataset("train")[119]) == digest(samples[119])


def test_another_size_shows_the_same_scene(samples: list[Sample]) -> None:
    # Three times as large, so that every third pixel has the center of a small one.
    large = msgspec.structs.replace(SMALL, size=(144, 192)).dataset("train")
    for index in range(8):
        here, there = samples[index].labels, large[index].labels
        same = here["segmentation"] == there["segmentation"][1::3, 1::3]
        assert same.float().mean() > 0.995
        off = (here["depth"] - there["depth"][:, 1::3, 1::3]).abs()[0]
        assert off[same].quantile(0.99) < 1e-3


def test_every_class_is_seen_and_none_is_everywhere(samples: list[Sample]) -> None:
    scenes_with = (
        torch.stack([s.labels["segmentation"].flatten().bincount(minlength=13) for s in samples]) > 0
    )
    assert (scenes_with.sum(0) >= 15).all()
    pixels = torch.stack([s.labels["segmentation"] for s in samples]).flatten().bincount(minlength=13)
    assert pixels.max() < 0.55 * pixels.sum()


def test_color_says_little_about_the_class(samples: list[Sample]) -> None:
    """The best guess from a pixel's color, learned on some scenes, fails on others."""
    colors = torch.stack([(s.image * 8).long().clamp(max=7) for s in samples])
    cells = (64 * colors[:, 0] + 8 * colors[:, 1] + colors[:, 2]).flatten(1)
    classes = torch.stack([s.labels["segmentation"] for s in samples]).flatten(1)
    seen = torch.zeros(512, 13).index_put_((cells[:90], classes[:90]), torch.tensor(1.0), accumulate=True)
    guess, truth = seen.argmax(1)[cells[90:]], classes[90:]
    hits = [((guess == c) & (truth == c)).sum() / ((guess == c) | (truth == c)).sum() for c in range(13)]
    assert torch.stack(hits).mean() < 0.12


def test_depth_differs_within_and_between_scenes(samples: list[Sample]) -> None:
    depths = torch.stack([sample.labels["depth"] for sample in samples])
    assert depths.std(dim=(1, 2, 3)).median() > 0.5
    assert depths.mean(dim=(1, 2, 3)).std() > 0.3


def test_noise_is_what_the_recipe_says() -> None:
    clean, noisy = (msgspec.structs.replace(SMALL, noise=noise).dataset("val")[3] for noise in (0.0, 0.05))
    inner = (clean.image > 0.25) & (clean.image < 0.75)  # where clipping plays no part
    added = (noisy.image - clean.image)[inner]
    assert added.std().item() == pytest.approx(0.05, rel=0.05)
    assert abs(added.mean().item()) < 0.005
    assert all(torch.equal(noisy.labels[name], clean.labels[name]) for name in clean.labels)


def inside(solid: Solid, point: tuple[float, float, float]) -> bool:
    x, y, z = (a - b for a, b in zip(point, solid.center, strict=True))
    cos, sin = math.cos(solid.yaw), math.sin(solid.yaw)
    unit = np.abs(np.array((cos * x + sin * y, cos * y - sin * x, z)) / solid.half)
    if solid.shape is Shape.BOX:
        return unit.max() < 1
    flat = math.hypot(unit[0], unit[1])
    return max(flat, unit[2]) < 1 if solid.shape is Shape.CYLINDER else math.hypot(flat, unit[2]) < 1


def test_cameras_and_lamps_hang_free_in_furnished_rooms() -> None:
    scenes = [draw_scene(np.random.default_rng(seed)) for seed in range(200)]
    for scene in scenes:
        for place in (scene.camera.position, scene.light.position):
            assert not any(inside(solid, place) for solid in scene.solids)
    assert np.mean([len(scene.solids) for scene in scenes]) > 30


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", [15, 128]),
        ("size", [96]),
        ("train", 0),
        ("val", 0),
        ("seed", -1),
        ("noise", -0.1),
        ("noise", math.nan),
        ("sizes", [96, 128]),
    ],
)
def test_a_bad_field_is_named(field: str, value: object) -> None:
    with pytest.raises(msgspec.ValidationError, match=field):
        msgspec.convert({"type": "scenes", field: value}, Scenes)


@pytest.mark.parametrize("index", [-1, 120])
def test_an_index_beyond_the_split_is_refused(index: int) -> None:
    assert len(SMALL.dataset("val")) == 120
    with pytest.raises(IndexError, match="120"):
        SMALL.dataset("val")[index]


def test_a_video_is_a_walk_through_one_room() -> None:
    spec = Scenes(size=(48, 64), video=3, sequence=30)
    dataset = spec.dataset("video")
    assert (len(dataset), dataset.firsts, spec.dataset("val").firsts) == (90, {0, 30, 60}, set())

    def change(first: int, second: int) -> float:
        return float((dataset[first].labels["depth"] - dataset[second].labels["depth"]).abs().mean())

    for start in 0, 30:
        assert 0 < change(start, start + 1) < change(start, start + 15)
        assert change(start + 28, start + 29) < 0.5 * change(start + 29, start + 30)
    stills = msgspec.structs.replace(spec, sequence=1).dataset("video")
    assert [digest(stills[room]) for room in range(3)] == [digest(dataset[30 * room]) for room in range(3)]


def test_the_camera_of_a_video_stays_in_free_space() -> None:
    dataset = Scenes(size=(16, 24), video=12, sequence=180).dataset("video")
    for index in range(0, len(dataset), 45):
        assert dataset[index].labels["depth"].min() > 0.2
