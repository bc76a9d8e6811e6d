"""Metrics of any network, exported or not, over a whole split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.data.base import Batch
from edgemtl.tasks.base import Task

Predict = Callable[[Tensor], Mapping[str, Tensor]]


def of_arrays(predict: Callable[[NDArray[Any]], Mapping[str, NDArray[Any]]]) -> Predict:
    """What predicts from arrays, as a bundle's runner does, for ``evaluate``."""

    def of_tensors(image: Tensor) -> Mapping[str, Tensor]:
        return {task: torch.from_numpy(array) for task, array in predict(image.numpy()).items()}

    return of_tensors


class Evaluation(NamedTuple):
    """Metrics and mean loss by task."""

    scores: dict[str, dict[str, float]]
    losses: dict[str, float]


@torch.no_grad()
def evaluate(
    predict: Predict,
    tasks: Mapping[str, Task],
    batches: Iterable[Batch],
    device: torch.device | None = None,
    add_up: Callable[[Tensor], Tensor] = lambda tensor: tensor,
) -> Evaluation:
    """Run ``predict`` ([B, 3, H, W] -> predictions by task) over batches and measure each task.

    ``add_up`` sums a tensor over the processes that share the batches.
    """
    meters = {name: task.meter() for name, task in tasks.items()}
    sums = {name: torch.zeros(2, dtype=torch.float64) for name in tasks}
    for batch in batches:
        batch = batch.to(device or torch.device("cpu"))
        predictions = predict(batch.image)
        for name, task in tasks.items():
            prediction, label = predictions[name].float(), batch.labels[task.label_name]
            meters[name].update(prediction, label)
            loss = task.loss(prediction, label)
            sums[name] += torch.stack([loss.total, loss.count.to(loss.total.dtype)]).double().cpu()
    for name, meter in meters.items():
        meter.state = add_up(meter.state)
        sums[name] = add_up(sums[name])
    return Evaluation(
        {name: meter.compute() for name, meter in meters.items()},
        {name: (total / count.clamp_min(1)).item() for name, (total, count) in sums.items()},
    )
