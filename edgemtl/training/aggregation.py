"""Aggregation: one gradient for the tensors where tasks meet, from the gradient of each task.

The aggregate is a weighted sum of the tasks' gradients. The plain sum weighs all by 1; the others find the
weights from the inner products of the tasks' gradients (their Gramian), so no more than that is ever formed.
As in the papers there is one weight a task for the whole network, not one for each layer. Methods:

- ``pcgrad``: Yu et al., "Gradient Surgery for Multi-Task Learning" (NeurIPS 2020), algorithm 1.
- ``aligned``: Senushkin et al., "Independent Component Alignment for Multi-Task Learning" (CVPR 2023).
- ``upgrad``: Quinton & Rey, "Jacobian Descent for Multi-Objective Optimization" (2024), section 3.

Where gradients do not conflict, ``pcgrad`` and ``upgrad`` are the sum; where they are orthogonal and of one
length, so is ``aligned``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchjd.aggregation import AlignedMTLWeighting, PCGradWeighting, UPGradWeighting

from edgemtl.core.errors import SetupError

Row = Sequence[Tensor | None]  # gradients; None where a task's loss does not reach a tensor
Weigh = Callable[[Sequence[Row]], Sequence[float]]  # a row of each task, over the tensors -> its weight


def aggregate(rows: Sequence[Row], weigh: Weigh) -> list[Tensor | None]:
    """The gradient of each tensor. One that a single task reaches (a head, a branch of its own, what a
    balancer learns) gets that task's gradient: there is nobody to agree with.
    """
    weights = weigh(rows)
    return [_weighted_sum(column, weights) for column in zip(*rows, strict=True)]


def equally(rows: Sequence[Row]) -> Sequence[float]:
    """The weights of the plain sum."""
    return [1.0] * len(rows)


def weighing(name: str, tasks: int, add_up: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Weigh:
    """The method that a recipe calls ``name``, for a number of tasks.

    ``add_up`` sums a tensor over the processes that share a batch, so that all find the weights of the
    gradients of the whole batch.

    Raises:
        SetupError: the method needs a solver that is not installed.
    """
    if name == "sum":
        return equally
    # A preference of 1 for each task: what the methods correct is the sum, not torchjd's default, the mean.
    weighting = _WEIGHTINGS[name](torch.ones(tasks, dtype=torch.float64))

    def weigh(rows: Sequence[Row]) -> Sequence[float]:
        meeting = [column for column in zip(*rows, strict=True) if len(_reached(column)) > 1]
        if not meeting:
            return equally(rows)
        products = gramian(meeting, add_up)
        products /= products.trace()  # no method depends on the scale, but solvers have thresholds
        # All gradients are 0, or fp16 overflowed: the sum shows the loss scaler what it looks for.
        return weighting(products).tolist() if products.isfinite().all() else equally(rows)

    return weigh


def gramian(columns: Sequence[Row], add_up: Callable[[Tensor], Tensor]) -> Tensor:
    """Inner products [tasks, tasks], float64 on the CPU, of the tasks' gradients; ``columns`` has a row for
    each tensor. A task that does not reach a tensor has a gradient of 0 there.
    """
    products = []
    for column in columns:
        zero = torch.zeros_like(_reached(column)[0])
        jacobian = torch.stack([zero if gradient is None else gradient for gradient in column]).flatten(1)
        jacobian = add_up(jacobian)
        products.append(jacobian @ jacobian.T)
    return torch.stack(products).double().sum(0).cpu()


def _upgrad(preference: Tensor) -> UPGradWeighting:
    try:
        return UPGradWeighting(preference)
    except ImportError as error:
        raise SetupError(
            "$.training.aggregation",
            expected="the solver of upgrad, which is under the GPL and so in no extra of edgemtl",
            found="none",
            fix='pip install "torchjd[quadprog_projector]"',
        ) from error


_WEIGHTINGS: dict[str, Callable[[Tensor], Callable[[Tensor], Tensor]]] = {
    "pcgrad": lambda preference: PCGradWeighting(),
    "aligned": AlignedMTLWeighting,
    "upgrad": _upgrad,
}


def _weighted_sum(column: Row, weights: Sequence[float]) -> Tensor | None:
    reached = _reached(column)
    if len(reached) < 2:
        return reached[0] if reached else None
    total = torch.zeros_like(reached[0])
    for gradient, weight in zip(column, weights, strict=True):
        if gradient is not None:
            total.add_(gradient, alpha=weight)
    return total


def _reached(column: Row) -> list[Tensor]:
    return [gradient for gradient in column if gradient is not None]
