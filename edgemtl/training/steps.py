"""Update strategies: how the tasks' losses become gradients.

A strategy is a generator: whenever it has left gradients in ``.grad`` it yields the losses, and the trainer
makes an optimizer step; parameters without a gradient stay as they are. In each, kernels are composed once
for every forward pass. Kernel space is where tasks meet: a routed step takes the gradient of each task's loss
with respect to the composed kernels and to all that is trained as it is (biases, normalizations, plain and
block layers), aggregates them, and the chain rule leads from the kernels to the factors. Groups that fork
have kernels apart: there tasks meet in the factors that the groups share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgemtl.balancing import Losses
from edgemtl.core.errors import UsageError
from edgemtl.data.base import Batch
from edgemtl.kernels import composed
from edgemtl.training.aggregation import Row, aggregate
from edgemtl.training.objective import Objective

Update = Callable[[Objective, Batch], Iterator[Mapping[str, Tensor]]]


def joint(objective: Objective, batch: Batch) -> Iterator[Losses]:
    """Plain backpropagation of the sum of the balanced losses."""
    with composed():
        objective.compose()
        losses, balanced = objective.losses(batch)
        objective.scaled(total(balanced)).backward()  # type: ignore[no-untyped-call]
    yield losses


def routed(objective: Objective, batch: Batch) -> Iterator[Losses]:
    """One forward pass, one trunk backward a task: a task's own factors get the gradient of its loss alone,
    the shared factors and everything else the aggregate.
    """
    own, rest, bridges = objective.own, objective.rest, objective.bridges
    with composed():
        kernels = objective.compose()
        losses, balanced = objective.losses(batch)
        rows: list[Row] = []
        for position, (task, loss) in enumerate(balanced.items(), start=1):
            more = position < len(balanced)
            row = torch.autograd.grad(
                objective.scaled(loss), [*kernels, *rest], retain_graph=more, allow_unused=True
            )
            of_kernels, of_rest = row[: len(kernels)], row[len(kernels) :]
            _backward(kernels, of_kernels, own.get(task, []))
            met = [None if forked else g for g, forked in zip(of_kernels, objective.forked, strict=True)]
            rows.append([*met, *of_rest, *_chained(kernels, of_kernels, bridges)])
        gradients = aggregate(rows, objective.weigh)
        _backward(kernels, gradients[: len(kernels)], objective.within)
        _give([*rest, *bridges], gradients[len(kernels) :])
    yield losses


def alternating(objective: Objective, batch: Batch) -> Iterator[Losses]:
    """In turn: each task's own factors on its loss with all else frozen, then all else on the sum."""
    for task, parameters in objective.own.items():
        with composed(), frozen_statistics(objective.model):
            objective.compose()
            losses, balanced = objective.losses(batch, [task])
            torch.autograd.backward(objective.scaled(balanced[task]), inputs=parameters)
        yield losses
    with composed():
        objective.compose()
        losses, balanced = objective.losses(batch)
        torch.autograd.backward(
            objective.scaled(total(balanced)), inputs=[*objective.shared, *objective.rest]
        )
    yield losses


UPDATES: dict[str, Update] = {"joint": joint, "routed": routed, "alternating": alternating}


def check_update(name: str, objective: Objective) -> None:
    """Refuse a strategy that would silently be another.

    Raises:
        UsageError: ``alternating`` without factors of single tasks is ``joint``.
    """
    if name == "alternating" and not objective.own:
        raise UsageError(
            "$.training.update",
            expected="alternating with a kernel method that gives tasks factors of their own",
            found="none in this network",
            fix="Choose `kernel: residual` or `factorized`, or `update: joint`.",
        )


def total(losses: Losses) -> Tensor:
    """The sum over the tasks."""
    return torch.stack(list(losses.values())).sum()


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Within the block batch normalizations keep their running statistics, while they train on those of the
    batch: else these would follow each batch as often as a strategy runs forward.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def _backward(kernels: Sequence[Tensor], gradients: Row, to: list[nn.Parameter]) -> None:
    """Lead gradients of kernels on to some of the factors that compose them, into ``.grad``."""
    _give(to, _chained(kernels, gradients, to))


def _give(parameters: Sequence[nn.Parameter], gradients: Row) -> None:
    """Set ``.grad``, as backward does, each in memory of its own and in the layout of its parameter.

    A gradient may come transposed, while torch's fused optimizers read memory as it lies; and parameters that
    are added up are given one and the same.
    """
    given: set[int] = set()
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            if gradient.stride() != parameter.stride() or gradient.data_ptr() in given:
                gradient = torch.empty_like(parameter).copy_(gradient)
            given.add(gradient.data_ptr())
        parameter.grad = gradient


def _chained(kernels: Sequence[Tensor], gradients: Row, to: Sequence[nn.Parameter]) -> Row:
    """The gradients of some factors, from those of the kernels that they compose; None where none arrives."""
    reached = [pair for pair in zip(kernels, gradients, strict=True) if pair[1] is not None]
    if not to or not reached:
        return [None] * len(to)
    outputs, arriving = zip(*reached, strict=True)
    return torch.autograd.grad(outputs, to, arriving, retain_graph=True, allow_unused=True)
