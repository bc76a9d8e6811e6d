from __future__ import annotations

import multiprocessing
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from edgemtl.core.errors import DataError, UsageError
from edgemtl.data.augment import Augment
from edgemtl.data.base import Batch, Dataset, LabelInfo, Sample
from edgemtl.data.loader import eval_batches, steps_per_epoch, train_batches


class Numbered(Dataset):
    """Images of noise; ``depth`` holds the index of the sample and is invalid in the first pixel."""

    size = (6, 8)

    def __init__(self, images: int, broken: int | None = None) -> None:
        self.images, self.broken = images, broken
        self.labels = {"depth": LabelInfo("depth")}

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index: int) -> Sample:
        if index == self.broken:
            raise DataError(
                f"{index}.npy", expected="a whole file", found="half of one", fix="Copy it again."
            )
        noise = torch.rand(3, *self.size, generator=torch.Generator().manual_seed(index))
        depth = torch.full((1, *self.size), index + 1.0)
        depth[0, 0, 0] = 0
        return Sample(str(index), noise, {"depth": depth})


def equal(found: list[Batch], expected: list[Batch]) -> bool:
    return len(found) == len(expected) and all(
        a.ids == b.ids and torch.equal(a.image, b.image) and torch.equal(a.labels["depth"], b.labels["depth"])
        for a, b in zip(found, expected, strict=True)
    )


def joined(ranks: list[list[Batch]]) -> list[Batch]:
    """What several processes see together, step by step."""
    return [
        Batch.of([batch[i] for batch in step for i in range(len(batch))]) for step in zip(*ranks, strict=True)
    ]


schedules = st.fixed_dictionaries(
    {"batch": st.sampled_from([2, 4, 6]), "epochs": st.integers(1, 3), "seed": st.integers(0, 2**31)}
)


@settings(max_examples=25)
@given(st.integers(6, 20), schedules)
def test_every_epoch_shows_whole_batches_of_different_samples(images: int, schedule: dict[str, int]) -> None:
    dataset = Numbered(images)
    batches = list(train_batches(dataset, Augment(), **schedule))
    steps = steps_per_epoch(dataset, schedule["batch"])
    assert len(batches) == schedule["epochs"] * steps
    for epoch in range(schedule["epochs"]):
        ids = [i for batch in batches[epoch * steps : (epoch + 1) * steps] for i in batch.ids]
        assert len(ids) == len(set(ids)) == steps * schedule["batch"]


@settings(max_examples=25)
@given(st.integers(6, 20), schedules, st.integers(0, 40))
def test_a_run_that_starts_again_sees_what_it_would_have_seen(
    images: int, schedule: dict[str, int], start: int
) -> None:
    whole = list(train_batches(Numbered(images), Augment(), **schedule))
    again = list(train_batches(Numbered(images), Augment(), **schedule, start_step=start))
    assert equal(again, whole[start:])


@settings(max_examples=25)
@given(st.integers(36, 40), schedules, st.sampled_from([2, 3, 6]))
def test_processes_see_together_what_one_would_see(images: int, schedule: dict[str, int], world: int) -> None:
    schedule = {**schedule, "batch": schedule["batch"] * world}
    whole = list(train_batches(Numbered(images), Augment(), **schedule))
    ranks = [
        list(train_batches(Numbered(images), Augment(), **schedule, rank=rank, world=world))
        for rank in range(world)
    ]
    assert equal(joined(ranks), whole)


def test_workers_change_nothing() -> None:
    schedule = {"batch": 4, "epochs": 2, "seed": 3, "start_step": 1}
    alone = list(train_batches(Numbered(10), Augment(), **schedule))
    for workers in (1, 2):
        assert equal(list(train_batches(Numbered(10), Augment(), **schedule, workers=workers)), alone)


def test_seeds_and_epochs_differ_in_order_and_augmentation() -> None:
    def epoch(seed: int, number: int) -> list[Batch]:
        return list(train_batches(Numbered(32), Augment(), batch=32, epochs=2, seed=seed))[
            number : number + 1
        ]

    (first,), (second,), (other,) = epoch(0, 0), epoch(0, 1), epoch(1, 0)
    assert len({first.ids, second.ids, other.ids}) == 3
    views = [{name: batch.image[i] for i, name in enumerate(batch.ids)} for batch in (first, second, other)]
    for another in views[1:]:
        assert sum(not torch.equal(image, another[name]) for name, image in views[0].items()) > 16


@settings(max_examples=25)
@given(st.integers(1, 20), st.integers(1, 4), st.integers(1, 4))
def test_evaluation_sees_every_sample_once_and_unchanged(images: int, world: int, share: int) -> None:
    dataset = Numbered(images)
    batches = [
        batch
        for rank in range(world)
        for batch in eval_batches(dataset, batch=share * world, rank=rank, world=world)
    ]
    assert sorted(int(i) for batch in batches for i in batch.ids) == list(range(images))
    for batch in batches:
        assert len(batch) <= share
        assert equal([batch], [Batch.of([dataset[int(i)] for i in batch.ids])])


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_sample_stops_with_its_own_error(workers: int) -> None:
    batches = train_batches(Numbered(6, broken=4), Augment(), batch=1, epochs=1, seed=0, workers=workers)
    with pytest.raises(
        DataError, match=r"^4\.npy: expected a whole file, found half of one\. Copy it again\.$"
    ):
        list(batches)


def test_workers_end_when_the_iterator_is_dropped() -> None:
    before = set(multiprocessing.active_children())
    batches = train_batches(Numbered(16), Augment(), batch=4, epochs=1000, seed=0, workers=1)
    next(batches)
    started = set(multiprocessing.active_children()) - before
    assert len(started) == 1
    del batches
    deadline = time.monotonic() + 10
    while started & set(multiprocessing.active_children()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not started & set(multiprocessing.active_children())


class Threads(Numbered):
    def __getitem__(self, index: int) -> Sample:
        return Sample(
            "", torch.full((3, *self.size), float(torch.get_num_threads())), {"depth": torch.zeros(1, 6, 8)}
        )


def test_a_worker_computes_on_one_thread() -> None:
    (batch,) = train_batches(Threads(1), Augment(), batch=1, epochs=1, seed=0, workers=1)
    assert batch.image.unique().tolist() == [1.0]


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_draws_nothing_from_the_generator_that_training_uses(workers: int) -> None:
    before = torch.random.get_rng_state()
    list(train_batches(Numbered(4), Augment(), batch=4, epochs=1, seed=0, workers=workers))
    list(eval_batches(Numbered(4), batch=4))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_impossible_requests_are_refused_at_once() -> None:
    schedule = {"epochs": 1, "seed": 0}
    with pytest.raises(DataError, match="at least one batch of 8 images, found 5"):
        train_batches(Numbered(5), Augment(), batch=8, **schedule)
    with pytest.raises(DataError, match="images of at least 7x8"):
        train_batches(Numbered(5), Augment(crop=(7, 8)), batch=4, **schedule)
    with pytest.raises(UsageError, match=r"multiple of the 3 processes .*found 4\. Use 6\."):
        train_batches(Numbered(5), Augment(), batch=4, **schedule, world=3)
    with pytest.raises(UsageError, match=r"found 2\. Use 3\."):
        eval_batches(Numbered(5), batch=2, world=3)
