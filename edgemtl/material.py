"""What a run gives to lower the precision of its network: images to calibrate on, and what measures it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.core.errors import DataError
from edgemtl.core.report import Scores
from edgemtl.data.base import Dataset, Sample
from edgemtl.data.loader import eval_batches
from edgemtl.export import Export, Material
from edgemtl.export.precision import Predict
from edgemtl.run import Run
from edgemtl.training.evaluate import evaluate, of_arrays


def material_of(run: Run, spec: Export, split: str) -> Material:
    """For int8, images of the training split; below fp32, what measures on ``split``, if one is named.

    Raises:
        DataError: the training split has fewer images than asked, or of another size.
    """
    images = _calibration_images(run, spec.lowering.images) if spec.precision == "int8" else None
    if not split or spec.precision == "fp32":
        return Material(images)

    dataset = run.recipe.data.dataset(split)

    def measure(predict: Predict, count: int | None) -> Scores:
        some = _Spread(dataset, min(count or len(dataset), len(dataset)))
        batches = eval_batches(some, batch=run.recipe.training.batch)
        return evaluate(of_arrays(predict), run.recipe.tasks, batches).scores

    return Material(images, measure)


def _calibration_images(run: Run, count: int) -> NDArray[Any]:
    """[count, 3, height, width], float32."""
    dataset = run.recipe.data.dataset(run.recipe.data.splits[0])
    if len(dataset) < count or dataset.size != run.size:
        raise DataError(
            "calibration",
            expected=f"{count} images of {_by(run.size)} in the training split",
            found=f"{len(dataset)} of {_by(dataset.size)}",
            fix=f"Use --calibration-images {len(dataset)} or fewer, or more data.",
        )
    chosen = _Spread(dataset, count)
    return np.stack([chosen[index].image.numpy() for index in range(count)])


class _Spread(Dataset):
    """So many samples of a split, spread evenly over it: neighbors are often of one scene."""

    def __init__(self, dataset: Dataset, count: int) -> None:
        self.size, self.labels = dataset.size, dataset.labels
        self._dataset, self._count = dataset, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        return self._dataset[index * len(self._dataset) // self._count]


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
