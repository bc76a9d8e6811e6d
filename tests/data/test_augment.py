from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch import Tensor
from torch.nn import functional as F

from edgemtl.core.errors import DataError
from edgemtl.data.augment import Augment
from edgemtl.data.sample import LabelInfo, Sample

SIZE = (48, 60)
FOCAL = 50.0  # pixels
LABELS = {
    "place": LabelInfo("classes", tuple(map(str, range(SIZE[0] * SIZE[1])))),  # each pixel is a class
    "depth": LabelInfo("depth"),
    "normals": LabelInfo("normals"),
}
scales = st.lists(st.sampled_from([1.0, 1.2, 1.5, 2.0, 3.7]), min_size=1, max_size=2).map(tuple)
augments = st.builds(
    Augment, flip=st.booleans(), scales=scales, crop=st.sampled_from([None, (48, 60), (20, 24)])
)
seeds = st.integers(0, 2**32)


def rays() -> Tensor:
    """Where the camera's pixels look, [3, H, W], with z = 1."""
    y, x = torch.meshgrid(*((torch.arange(n) + 0.5 - n / 2) / FOCAL for n in SIZE), indexing="ij")
    return torch.stack([x, y, torch.ones(SIZE)])


def plane(normal: tuple[float, float, float] = (0.3, -0.5, -0.8), holes: bool = False) -> Sample:
    """A plane through (0, 0, 3), perhaps with pixels that nobody labeled. The image is a ramp in x and y."""
    direction = F.normalize(torch.tensor(normal), dim=0)[:, None, None]
    depth = 3 * direction[2] / (direction * rays()).sum(dim=0, keepdim=True)
    labels = {
        "place": torch.arange(SIZE[0] * SIZE[1]).reshape(SIZE),
        "depth": depth,
        "normals": direction.expand(3, *SIZE),
    }
    if holes:
        hole = torch.rand(SIZE, generator=torch.Generator().manual_seed(1)) < 0.3
        labels = {
            name: torch.where(hole, -1 if name == "place" else 0, label) for name, label in labels.items()
        }
    ramps = (rays() - rays().amin(dim=(1, 2), keepdim=True)) * FOCAL / 100
    return Sample("plane", ramps, labels)


def enlargement(place: Tensor) -> float:
    """How many pixels of the view stand for one of the image, from the places that the view shows."""
    rows, columns = (place // SIZE[1]).unique(), (place % SIZE[1]).unique()
    return (place.numel() / (len(rows) * len(columns))) ** 0.5


@given(augments, seeds)
def test_depth_and_normals_still_describe_the_plane(augment: Augment, seed: int) -> None:
    """Seen through a lens as much longer as the view is enlarged, which the depth makes up for."""
    seen = augment(plane(), LABELS, np.random.default_rng(seed)).labels
    mirrored = bool(seen["place"][0, 0] > seen["place"][0, -1])
    ray = rays()[:, seen["place"] // SIZE[1], seen["place"] % SIZE[1]]
    points = ray * seen["depth"] * enlargement(seen["place"])
    points[0] *= -1 if mirrored else 1
    distances = (seen["normals"] * points).sum(dim=0)
    assert torch.allclose(distances, distances[0, 0], atol=1e-4)
    assert distances[0, 0].item() == pytest.approx(3 * plane().labels["normals"][2, 0, 0].item(), abs=1e-4)
    assert torch.allclose(seen["normals"].norm(dim=0), torch.ones(seen["depth"].shape[1:]), atol=1e-6)


@given(augments, seeds)
def test_a_view_is_enlarged_by_one_of_the_scales(augment: Augment, seed: int) -> None:
    found = enlargement(augment(plane(), LABELS, np.random.default_rng(seed)).labels["place"])
    smallest = min(augment.crop or SIZE)
    assert any(found == pytest.approx(scale, rel=scale / smallest) for scale in augment.scales)


@given(augments, seeds)
def test_image_and_labels_show_the_same_place(augment: Augment, seed: int) -> None:
    seen = augment(plane(), LABELS, np.random.default_rng(seed))
    place = seen.labels["place"]
    assert seen.image.shape == (3, *(augment.crop or SIZE)) == (3, *place.shape)
    for ramp, index in ((seen.image[0], place % SIZE[1]), (seen.image[1], place // SIZE[1])):
        # Half a pixel by taking the nearest one; bilinear weights end half a pixel inside the window.
        assert (ramp * 100 - index).abs().max() <= 0.51


@given(augments, seeds)
def test_what_was_invalid_stays_invalid_and_nothing_else_becomes_so(augment: Augment, seed: int) -> None:
    rng, same = np.random.default_rng(seed), np.random.default_rng(seed)
    holed, whole = augment(plane(holes=True), LABELS, rng).labels, augment(plane(), LABELS, same).labels
    valid = LABELS["place"].valid(holed["place"])
    for name, info in LABELS.items():
        assert torch.equal(info.valid(holed[name]), valid)
        assert torch.equal(
            holed[name][..., valid], whole[name][..., valid]
        )  # no hole bleeds into its neighbors


@settings(max_examples=20)
@given(augments, seeds)
def test_the_sample_is_left_alone_and_the_seed_decides(augment: Augment, seed: int) -> None:
    sample = plane()
    first, second = (augment(sample, LABELS, np.random.default_rng(seed)) for _ in range(2))
    assert torch.equal(first.image, second.image)
    assert torch.equal(sample.image, plane().image)
    for name, label in plane().labels.items():
        assert torch.equal(first.labels[name], second.labels[name])
        assert torch.equal(sample.labels[name], label)


def test_without_flip_and_scales_nothing_changes() -> None:
    sample = plane()
    seen = Augment(flip=False, scales=(1.0,))(sample, LABELS, np.random.default_rng(0))
    assert torch.equal(seen.image, sample.image)
    assert all(torch.allclose(seen.labels[name], label, atol=1e-7) for name, label in sample.labels.items())


def test_a_mirrored_normal_points_the_other_way_in_x_alone() -> None:
    sample = plane((0.6, 0.0, -0.8))
    seen = [
        Augment(scales=(1.0,))(sample, LABELS, np.random.default_rng(seed)).labels["normals"][:, 0, 0]
        for seed in range(40)
    ]
    mirrored = [normal for normal in seen if normal[0] < 0]
    assert 10 < len(mirrored) < 30
    assert torch.allclose(mirrored[0], torch.tensor([-0.6, 0.0, -0.8]))


def test_windows_reach_every_corner() -> None:
    augment = Augment(flip=False, scales=(1.1,))
    draws = [augment(plane(), LABELS, np.random.default_rng(seed)).labels["place"] for seed in range(400)]
    last = SIZE[0] * SIZE[1] - 1
    shown = {int(view[y, x]) for view in draws for y in (0, -1) for x in (0, -1)}
    assert {0, SIZE[1] - 1, last - SIZE[1] + 1, last} <= shown


def test_every_scale_is_used() -> None:
    draws = [Augment()(plane(), LABELS, np.random.default_rng(seed)).labels["place"] for seed in range(30)]
    assert len({round(enlargement(place), 1) for place in draws}) == 3


@pytest.mark.parametrize(
    ("augment", "needed"),
    [
        (Augment(crop=(49, 60)), "49x60"),
        (Augment(crop=(40, 61)), "40x61"),
        (Augment(crop=(30, 40), scales=(1.0, 0.5)), "60x80"),
        (Augment(scales=(0.8,)), "60x75"),
    ],
)
def test_images_that_are_too_small_are_refused(augment: Augment, needed: str) -> None:
    with pytest.raises(DataError, match=f"at least {needed} .*found 48x60"):
        augment.check(SIZE)


def test_a_crop_with_room_may_be_taken_from_a_larger_window() -> None:
    augment = Augment(crop=(24, 30), scales=(0.5,))
    augment.check(SIZE)
    assert augment(plane(), LABELS, np.random.default_rng(0)).image.shape == (3, 24, 30)
