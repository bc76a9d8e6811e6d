"""Any number of images through what takes only so many at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from edgemtl.runtime.session import Array


def in_batches(
    run: Callable[[Array], Mapping[str, Array]], images: Array, batch: int
) -> Iterator[dict[str, Array]]:
    """What ``run`` says of images [N, ...], N > 0, a batch at a time.

    A last batch that they do not fill repeats the last image; what that adds to the answers is dropped.
    """
    for start in range(0, len(images), batch):
        rows = np.minimum(np.arange(start, start + batch), len(images) - 1)
        answers = run(images[rows])
        yield {name: array[: len(images) - start] for name, array in answers.items()}


def together(answers: Iterator[dict[str, Array]]) -> dict[str, Array]:
    """The answers of all batches, one after another."""
    found = list(answers)
    return {name: np.concatenate([answer[name] for answer in found]) for name in found[0]}
