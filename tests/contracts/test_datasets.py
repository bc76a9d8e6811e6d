"""What every dataset promises, for each member of DataSpec and each of its splits."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import get_args

import pytest

torch = pytest.importorskip("torch")

from edgemtl.core.errors import UsageError
from edgemtl.data import Data, DataSpec, Folder, NYUv2, Sample, Scenes
from edgemtl.data.check import check
from edgemtl.data.loader import train_batches
from tests.data import pictures


@pytest.fixture(params=get_args(DataSpec), ids=lambda member: member.__name__)
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Data:
    """A small set; a new member needs a line here."""
    if request.param is Folder:
        return pictures.folder(pictures.write(tmp_path, images=6, size=(48, 64)), holdout=2)
    if request.param is NYUv2:
        root: Path = request.getfixturevalue("nyuv2_root")
        return NYUv2(root=str(root), holdout=2)
    return {Scenes: Scenes(size=(48, 64), train=6, val=4, video=2, sequence=3)}[request.param]


def equal(a: Sample, b: Sample) -> bool:
    return (
        a.id == b.id
        and torch.equal(a.image, b.image)
        and a.labels.keys() == b.labels.keys()
        and all(torch.equal(label, b.labels[name]) for name, label in a.labels.items())
    )


def test_samples_have_the_shapes_and_ranges_that_are_promised(data: Data) -> None:
    for split in data.splits:
        dataset = data.dataset(split)
        found = check(dataset)
        assert found.images == len(dataset) > 0
        assert all(label.valid > 0 for label in found.labels.values())


def test_a_sample_is_the_same_at_every_call_in_any_order_and_process(data: Data) -> None:
    for split in data.splits:
        dataset, again = data.dataset(split), data.dataset(split)
        copy = pickle.loads(pickle.dumps(dataset))
        forward = [dataset[index] for index in range(len(dataset))]
        for index in reversed(range(len(dataset))):
            assert equal(forward[index], again[index])
            assert equal(forward[index], dataset[index])
            assert equal(forward[index], copy[index])


def test_splits_share_no_image(data: Data) -> None:
    samples = [data.dataset(split)[i] for split in data.splits for i in range(len(data.dataset(split)))]
    assert len({sample.id for sample in samples}) == len(samples)
    assert len({sample.image.numpy().tobytes() for sample in samples}) == len(samples)


def test_it_ends(data: Data) -> None:
    dataset = data.dataset("val")
    assert len(list(dataset)) == len(dataset)


def test_an_unknown_split_offers_the_nearest(data: Data) -> None:
    with pytest.raises(UsageError, match=r"--split: .*found `trian`\. Did you mean `train`\?"):
        data.dataset("trian")


def test_it_trains(data: Data) -> None:
    dataset = data.dataset("train")
    (batch,) = train_batches(dataset, data.augment, batch=len(dataset), epochs=1, seed=0, workers=1)
    assert batch.image.shape == (len(dataset), 3, *dataset.size)
    assert sorted(batch.ids) == sorted(sample.id for sample in dataset)
