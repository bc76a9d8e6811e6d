from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgemtl.core.bundle import InputInfo
from edgemtl.data.check import LAYOUT
from edgemtl.data.sample import Batch, LabelInfo, Sample
from edgemtl.runtime.images import load_image


def sample(index: int) -> Sample:
    return Sample(
        f"s{index}", torch.full((3, 2, 4), index / 10), {"depth": torch.full((1, 2, 4), float(index))}
    )


def test_a_batch_stacks_samples_and_gives_them_back() -> None:
    batch = Batch.of([sample(1), sample(2)])
    assert (batch.ids, len(batch)) == (("s1", "s2"), 2)
    assert batch.image.shape == (2, 3, 2, 4)
    for index, original in enumerate([sample(1), sample(2)]):
        assert batch[index].id == original.id
        assert torch.equal(batch[index].image, original.image)
        assert torch.equal(batch[index].labels["depth"], original.labels["depth"])


@pytest.mark.parametrize("size", [(12, 16), (16, 21), (24, 32), (48, 64)])
def test_training_resizes_images_as_a_device_does(tmp_path: Path, size: tuple[int, int]) -> None:
    image = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "image.npy", image.numpy())
    found = Sample("a", image, {}).resized(size).image
    expected = load_image(tmp_path / "image.npy", InputInfo(*size, batch=(1, 1)))
    torch.testing.assert_close(found, torch.from_numpy(expected[0]), rtol=0, atol=1e-5)


def test_a_batch_moves_whole() -> None:
    moved = Batch.of([sample(1)]).to(torch.device("meta"))
    assert moved.ids == ("s1",)
    assert moved.image.is_meta and moved.labels["depth"].is_meta


def test_unlabeled_pixels_are_not_valid() -> None:
    assert LabelInfo("classes", ("a",)).valid(torch.tensor([[0, -1]])).tolist() == [[True, False]]
    assert LabelInfo("depth").valid(torch.tensor([[[0.0, 1.5]]])).tolist() == [[False, True]]
    normals = torch.tensor([[[0.0, 1.0]], [[0.0, 0.0]], [[0.0, 0.0]]])
    assert LabelInfo("normals").valid(normals).tolist() == [[False, True]]


@pytest.mark.parametrize("info", [LabelInfo("classes", ("a",)), LabelInfo("depth"), LabelInfo("normals")])
def test_a_blank_label_has_no_valid_pixel(info: LabelInfo) -> None:
    blank = info.blank((2, 4))
    channels, dtype = LAYOUT[info.kind]
    assert (blank.shape, blank.dtype) == ((*channels, 2, 4), dtype)
    assert not info.valid(blank).any()
