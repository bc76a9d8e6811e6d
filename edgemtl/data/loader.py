"""Batches for training and evaluation.

Every batch is a function of (seed, step) alone: the order of an epoch comes from (seed, epoch), a sample's
augmentation from (seed, epoch, index). So a run that starts again at a step sees what it would have seen,
with any number of workers; and what several processes see together is what one would see.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch.utils import data

from edgemtl.core.errors import DataError, UsageError
from edgemtl.data.augment import Augment
from edgemtl.data.base import Dataset
from edgemtl.data.sample import Batch, Sample

Key = tuple[int, int]  # (epoch, index)


def train_batches(
    dataset: Dataset,
    augment: Augment,
    *,
    batch: int,
    epochs: int,
    seed: int,
    start_step: int = 0,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
) -> Iterator[Batch]:
    """This process's part, batch / world samples, of every step from ``start_step`` to the last.

    ``batch`` is the global batch. The last incomplete one of an epoch is dropped. ``workers`` processes read
    ahead; they end with the schedule, or when the iterator is dropped.

    Raises:
        DataError: the images are too small for ``augment``, or fewer than a batch; or, while iterating, one
            cannot be read.
        UsageError: ``world`` does not divide ``batch``.
    """
    augment.check(dataset.size)
    share = _share(batch, world)
    schedule = _schedule(
        len(dataset), steps_per_epoch(dataset, batch), batch, epochs=epochs, seed=seed, start_step=start_step
    )
    mine = (keys[rank * share : (rank + 1) * share] for keys in schedule)
    return _read(_Reader(dataset, augment, seed), mine, workers)


def eval_batches(dataset: Dataset, *, batch: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
    """This process's part of the split: every sample once over the processes, unchanged, none twice.

    Raises:
        DataError: while iterating: a sample cannot be read.
        UsageError: ``world`` does not divide ``batch``.
    """
    share = _share(batch, world)
    mine = range(rank, len(dataset), world)
    schedule = ([(0, index) for index in mine[at : at + share]] for at in range(0, len(mine), share))
    return _read(_Reader(dataset, None, seed=0), schedule, workers=0)


def steps_per_epoch(dataset: Dataset, batch: int) -> int:
    """How many whole batches an epoch has.

    Raises:
        DataError: not one.
    """
    if len(dataset) < batch:
        raise DataError(
            "the training split",
            expected=f"at least one batch of {batch} images",
            found=str(len(dataset)),
            fix="Use a smaller `batch` or more images.",
        )
    return len(dataset) // batch


def _share(batch: int, world: int) -> int:
    if batch % world:
        raise UsageError(
            "$.training.batch",
            expected=f"a multiple of the {world} processes that share it",
            found=str(batch),
            fix=f"Use {batch + world - batch % world}.",
        )
    return batch // world


def _schedule(
    images: int, steps: int, batch: int, *, epochs: int, seed: int, start_step: int
) -> Iterator[list[Key]]:
    """The keys of every global batch, step by step."""
    for epoch in range(start_step // steps, epochs):
        # No sample has the index ``images``, so no augmentation draws the same numbers.
        order = np.random.default_rng((seed, epoch, images)).permutation(images).tolist()
        for step in range(max(0, start_step - epoch * steps), steps):
            yield [(epoch, index) for index in order[step * batch : (step + 1) * batch]]


class _Reader(data.Dataset[Batch | DataError]):
    """Reads, varies (unless ``augment`` is None) and stacks the samples of a batch: what a worker does.

    It returns an error instead of raising it: torch would make a RuntimeError with a traceback from it.
    """

    def __init__(self, dataset: Dataset, augment: Augment | None, seed: int) -> None:
        self._dataset, self._augment, self._seed = dataset, augment, seed

    def __getitem__(self, keys: Sequence[Key]) -> Batch | DataError:
        try:
            return Batch.of([self._sample(*key) for key in keys])
        except DataError as error:
            return error

    def _sample(self, epoch: int, index: int) -> Sample:
        sample = self._dataset[index]
        if self._augment is None:
            return sample
        return self._augment(sample, self._dataset.labels, np.random.default_rng((self._seed, epoch, index)))


def _read(reader: _Reader, schedule: Iterable[list[Key]], workers: int) -> Iterator[Batch]:
    """Start the workers now; they go through the whole schedule, so an epoch's end costs nothing."""
    loader = data.DataLoader(
        reader,
        batch_size=None,  # the schedule's entries are batches already
        sampler=schedule,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # the loader draws a seed: not from the generator that training uses
    )
    return _raising(iter(loader))


def _raising(batches: Iterator[Batch | DataError]) -> Iterator[Batch]:
    for batch in batches:
        if isinstance(batch, DataError):
            raise batch
        yield batch
