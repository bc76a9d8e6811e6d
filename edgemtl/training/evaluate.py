"""Metrics of any network, exported or not, over a whole split."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.core.errors import GateError
from edgemtl.data.base import Batch
from edgemtl.tasks.base import Task

Predict = Callable[[Tensor], Mapping[str, Tensor]]


def of_arrays(predict: Callable[[NDArray[Any]], Mapping[str, NDArray[Any]]]) -> Predict:
    """What predicts from arrays, as a bundle's runner does, for ``evaluate``."""

    def of_tensors(image: Tensor) -> Mapping[str, Tensor]:
        return {task: torch.from_numpy(array) for task, array in predict(image.numpy()).items()}

    return of_tensors


class Evaluation(NamedTuple):
    """Metrics, and the mean loss if it was asked for, by task. What no valid pixel defines is not there."""

    scores: dict[str, dict[str, float]]
    losses: dict[str, float]


@torch.no_grad()
def evaluate(
    predict: Predict,
    tasks: Mapping[str, Task],
    batches: Iterable[Batch],
    device: torch.device | None = None,
    add_up: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    *,
    losses: bool = False,
) -> Evaluation:
    """Run ``predict`` ([B, 3, H, W] -> predictions by task) over batches and measure each task.

    ``add_up`` sums a tensor over the processes that share the batches. ``losses`` are computed on demand.
    """
    meters = {name: task.meter() for name, task in tasks.items()}
    sums = {name: torch.zeros(2, dtype=torch.float64) for name in tasks if losses}
    for batch in batches:
        batch = batch.to(device or torch.device("cpu"))
        predictions = predict(batch.image)
        for name, task in tasks.items():
            prediction, label = predictions[name].float(), batch.labels[task.label_name]
            meters[name].update(prediction, label)
            if losses:
                loss = task.loss(prediction, label)
                sums[name] += torch.stack([loss.total, loss.count.to(loss.total.dtype)]).double().cpu()
    for meter in meters.values():
        meter.state = add_up(meter.state)
    totals = {name: add_up(both) for name, both in sums.items()}
    return Evaluation(
        {name: _defined(meter.compute()) for name, meter in meters.items()},
        {name: (total / count).item() for name, (total, count) in totals.items() if count},
    )


def score(
    predict: Predict, tasks: Mapping[str, Task], batches: Iterable[Batch]
) -> dict[str, dict[str, float]]:
    """The metrics by task of a network that is to be reported on.

    Raises:
        GateError: one is not finite.
    """
    scores = evaluate(predict, tasks, batches).scores
    for task, table in scores.items():
        for name, value in table.items():
            if not math.isfinite(value):
                raise GateError(
                    f"{task} {name}",
                    expected="a finite value",
                    found=str(value),
                    fix="Some prediction is not finite: export with more in fp32, or train at a lower rate.",
                )
    return scores


def _defined(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not math.isnan(value)}
