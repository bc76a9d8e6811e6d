"""What training minimizes: the balanced losses of a model on a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from edgemtl.balancing import Balancer, Losses
from edgemtl.data.base import Batch
from edgemtl.kernels import factors, parametrized
from edgemtl.model import MultitaskModel
from edgemtl.training.optim import Optimizer


class Objective:
    """The losses of a model, over the global batch where several processes share one.

    Args:
        model: what is trained.
        balancer: weighs the losses.
        forward: the model's forward pass, compiled or not.
        autocast: a context in which the forward pass runs at lower precision.
        scaled: a loss -> the loss to run backward from (fp16 scales it).
        add_up: sums a tensor over the ``processes``.
    """

    def __init__(
        self,
        model: MultitaskModel,
        balancer: Balancer,
        *,
        forward: Callable[..., dict[str, Tensor]] | None = None,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
        scaled: Callable[[Tensor], Tensor] = lambda loss: loss,
        add_up: Callable[[Tensor], Tensor] = lambda tensor: tensor,
        processes: int = 1,
    ) -> None:
        self.model, self.balancer, self.scaled = model, balancer, scaled
        self._forward, self._autocast = model if forward is None else forward, autocast
        self._add_up, self._processes = add_up, processes
        self.trained: list[nn.Parameter] = list(dict.fromkeys([*model.parameters(), *balancer.parameters()]))

    def optimizer(self, spec: Optimizer) -> torch.optim.Optimizer:
        """An optimizer of all that is trained, with groups of their own for the factors of kernels."""
        composing = {id(f.parameter): f for _, layer in parametrized(self.model) for f in factors(layer)}
        plain = [p for p in self.trained if id(p) not in composing]
        return spec.build(spec.groups(plain, list(composing.values())))

    def losses(self, batch: Batch, tasks: Sequence[str] | None = None) -> tuple[Losses, Losses]:
        """One forward pass: the losses as they are, for the eye, and balanced, to descend.

        The mean over processes of each is its mean over the valid pixels of the global batch, so averaging
        gradients over processes gives what one process with the whole batch would find.
        """
        with self._autocast():
            predictions = self._forward(batch.image, tasks)
        sums = {
            task: self.model.tasks[task].loss(
                prediction.float(), batch.labels[self.model.tasks[task].label_name]
            )
            for task, prediction in predictions.items()
        }
        counts = self._add_up(torch.stack([loss.count for loss in sums.values()]).float()).clamp_min(1)
        losses = {
            task: loss.total / count * self._processes
            for (task, loss), count in zip(sums.items(), counts, strict=True)
        }
        return losses, self.balancer(losses)
