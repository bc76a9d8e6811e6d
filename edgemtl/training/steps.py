"""Update strategies: how the tasks' losses become gradients.

A strategy is a generator: whenever it has left gradients in ``.grad`` it yields the losses, and the trainer
makes an optimizer step; parameters without a gradient stay as they are. In each, kernels are composed once
for every forward pass. Kernel space is where tasks meet: a routed step takes the gradient of each task's loss
with respect to the composed kernels and to all that is trained as it is (biases, normalizations, plain and
block layers), aggregates them, and the chain rule leads from the kernels to the factors. Groups that fork
have kernels apart, so there the factors that they share get the sum over the groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from edgemtl.balancing import Losses
from edgemtl.data.base import Batch
from edgemtl.kernels import composed, factors, parametrized, weight_of
from edgemtl.training.aggregation import Row, aggregate
from edgemtl.training.objective import Objective

Update = Callable[[Objective, Batch], Iterator[Mapping[str, Tensor]]]


def joint(objective: Objective, batch: Batch) -> Iterator[Losses]:
    """Plain backpropagation of the sum of the balanced losses."""
    with composed():
        compose(objective.model)
        losses, balanced = objective.losses(batch)
        objective.scaled(total(balanced)).backward()  # type: ignore[no-untyped-call]
    yield losses


def routed(objective: Objective, batch: Batch) -> Iterator[Losses]:
    """One forward pass, one trunk backward a task: a task's own factors get the gradient of its loss alone,
    the shared factors and everything else the aggregate.
    """
    own, shared = _factors_by_owner(objective.model)
    rest = _without(objective.trained, [*shared, *(p for parameters in own.values() for p in parameters)])
    with composed():
        kernels = compose(objective.model)
        losses, balanced = objective.losses(batch)
        rows: list[Row] = []
        for position, (task, loss) in enumerate(balanced.items(), start=1):
            more = position < len(balanced)
            row = torch.autograd.grad(
                objective.scaled(loss), [*kernels, *rest], retain_graph=more, allow_unused=True
            )
            _backward(kernels, row[: len(kernels)], own.get(task, []))
            rows.append(row)
        gradients = aggregate(rows, objective.weigh)
        _backward(kernels, gradients[: len(kernels)], shared)
        for parameter, gradient in zip(rest, gradients[len(kernels) :], strict=True):
            parameter.grad = gradient
    yield losses


def alternating(objective: Objective, batch: Batch) -> Iterator[Losses]:
    """In turn: each task's own factors on its loss with all else frozen, then all else on the sum."""
    own, _ = _factors_by_owner(objective.model)
    for task, parameters in own.items():
        with composed():
            compose(objective.model)
            losses, balanced = objective.losses(batch, [task])
            torch.autograd.backward(objective.scaled(balanced[task]), inputs=parameters)
        yield losses
    rest = _without(objective.trained, [p for parameters in own.values() for p in parameters])
    with composed():
        compose(objective.model)
        losses, balanced = objective.losses(batch)
        torch.autograd.backward(objective.scaled(total(balanced)), inputs=rest)
    yield losses


UPDATES: dict[str, Update] = {"joint": joint, "routed": routed, "alternating": alternating}


def total(losses: Losses) -> Tensor:
    """The sum over the tasks."""
    return torch.stack(list(losses.values())).sum()


def compose(model: nn.Module) -> list[Tensor]:
    """Compose all kernels, at full precision (autocast would round the factors), into the cache."""
    return [weight_of(layer) for _, layer in parametrized(model)]


def _factors_by_owner(model: nn.Module) -> tuple[dict[str, list[nn.Parameter]], list[nn.Parameter]]:
    """The factors of each task, and the shared ones, each once however many groups share it."""
    own: dict[str, list[nn.Parameter]] = {}
    shared: dict[nn.Parameter, None] = {}
    for _, layer in parametrized(model):
        for factor in factors(layer):
            if factor.owner is None:
                shared[factor.parameter] = None
            else:
                own.setdefault(factor.owner, []).append(factor.parameter)
    return own, list(shared)


def _backward(kernels: Sequence[Tensor], gradients: Sequence[Tensor | None], to: list[nn.Parameter]) -> None:
    """Lead gradients of kernels on to some of the factors that compose them, into ``.grad``."""
    reached = [
        (kernel, gradient)
        for kernel, gradient in zip(kernels, gradients, strict=True)
        if gradient is not None
    ]
    if to and reached:
        torch.autograd.backward(
            [kernel for kernel, _ in reached],
            [gradient for _, gradient in reached],
            retain_graph=True,
            inputs=to,
        )


def _without(parameters: Sequence[nn.Parameter], excluded: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    unwanted = {id(parameter) for parameter in excluded}
    return [parameter for parameter in parameters if id(parameter) not in unwanted]
