"""What training minimizes: the balanced losses of a model on a batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from edgemtl.balancing import Balancer, Losses
from edgemtl.core.errors import UsageError
from edgemtl.data.base import Batch
from edgemtl.kernels import Factor, factors, parametrized, weight_of
from edgemtl.model import Features, MultitaskModel
from edgemtl.tasks.base import LossSum
from edgemtl.training.aggregation import Weigh, equally
from edgemtl.training.distill import Distiller
from edgemtl.training.optim import Optimizer, Trained, together


class Objective:
    """The losses of a model, over the global batch where several processes share one.

    Args:
        model: what is trained.
        balancer: weighs the losses.
        distiller: adds to the loss of each task how far its feature is from a teacher's.
        run: the model's ``run``, compiled or not.
        autocast: a context in which the forward pass runs at lower precision.
        scaled: a loss -> the loss to run backward from (fp16 scales it).
        add_up: sums a tensor over the ``processes``.
        weigh: weighs the gradients of the tasks against each other in a routed step.
    """

    def __init__(
        self,
        model: MultitaskModel,
        balancer: Balancer,
        distiller: Distiller | None = None,
        *,
        run: Callable[..., tuple[Features, Features]] | None = None,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
        scaled: Callable[[Tensor], Tensor] = lambda loss: loss,
        add_up: Callable[[Tensor], Tensor] = lambda tensor: tensor,
        processes: int = 1,
        weigh: Weigh = equally,
    ) -> None:
        self.model, self.balancer, self.scaled, self.weigh = model, balancer, scaled, weigh
        self.distiller, self._run, self._autocast = distiller, run or model.run, autocast
        self._add_up, self._processes = add_up, processes
        self._labeled: dict[str, Tensor] = {}
        adaptors = distiller.adaptors.parameters() if distiller else ()
        everything = dict.fromkeys([*model.parameters(), *balancer.parameters(), *adaptors])
        self.trained: list[nn.Parameter] = [p for p in everything if p.requires_grad]
        self.layers = [layer for _, layer in parametrized(model)]
        trained = {layer: _trained_factors(layer) for layer in self.layers}
        # By parameter, since groups that fork may share one.
        found = {factor.parameter: factor for some in trained.values() for factor in some}
        self.factors = list(found.values())
        self.shared = [factor.parameter for factor in self.factors if factor.owner is None]
        self.own: dict[str, list[nn.Parameter]] = {}
        for factor in self.factors:
            if factor.owner is not None:
                self.own.setdefault(factor.owner, []).append(factor.parameter)
        uses = Counter(factor.parameter for some in trained.values() for factor in some)
        # Shared factors that groups which fork have in common, the others, and which trained layers fork.
        self.bridges = [parameter for parameter in self.shared if uses[parameter] > 1]
        self.within = [parameter for parameter in self.shared if uses[parameter] == 1]
        self.forked = [any(uses[f.parameter] > 1 for f in some) for some in trained.values() if some]
        self.rest = [parameter for parameter in self.trained if parameter not in found]

    def optimizer(self, spec: Optimizer, factor_spec: Optimizer | None = None) -> torch.optim.Optimizer:
        """An optimizer of all that is trained, with groups of their own for the factors of kernels.

        Args:
            spec: trains all but the factors, and them too unless there is a ``factor_spec``.
            factor_spec: trains the factors.

        Weight decay is for the network and the adaptors: what a balancer learns has none.

        Raises:
            UsageError: there is a ``factor_spec``, but no factor.
        """
        balancing = set(self.balancer.parameters())
        rest = [Trained(p, weight_decay=0.0 if p in balancing else None) for p in self.rest]
        if factor_spec is None:
            return spec.build(spec.groups([*rest, *(_trained(factor, 0.0) for factor in self.factors)]))
        if not self.factors:
            raise UsageError(
                "$.training.factor_optimizer",
                expected="kernels that have factors",
                found="none in this network",
                fix="Choose a kernel method in weight space, or leave factor_optimizer out.",
            )
        groups = factor_spec.groups(_trained(factor, None) for factor in self.factors)
        return together([spec.build(spec.groups(rest)), factor_spec.build(groups)])

    def losses(self, batch: Batch, tasks: Sequence[str] | None = None) -> tuple[Losses, Losses]:
        """One forward pass: the losses as they are, for the eye, and balanced, to descend. The distance to a
        teacher stands by itself in the first, as ``distill.TASK``; in the second it is in the task's loss.

        The mean over processes of each is its mean over the valid pixels of the global batch, so averaging
        gradients over processes gives what one process with the whole batch would find. A task without a
        valid pixel in it gives no gradient, its weight included, and ``unlabeled`` names it; a teacher still
        teaches it.
        """
        with self._autocast():
            features, predictions = self._run(batch.image, tasks)
        losses, labeled = self._means(
            {
                task: self.model.tasks[task].loss(
                    prediction.float(), batch.labels[self.model.tasks[task].label_name]
                )
                for task, prediction in predictions.items()
            }
        )
        self._labeled = labeled
        balanced: Losses = {task: loss * labeled[task] for task, loss in self.balancer(losses).items()}
        if self.distiller is None:
            return losses, balanced
        with self._autocast():
            distances, _ = self._means(self.distiller(batch.image, features))
        weight = self.distiller.weight
        return (
            losses | {f"distill.{task}": distance for task, distance in distances.items()},
            {task: loss + weight * distances[task] for task, loss in balanced.items()},
        )

    def compose(self) -> list[Tensor]:
        """Compose all kernels, at full precision (autocast would round the factors), into the cache, and
        return those that train.
        """
        kernels = [weight_of(layer) for layer in self.layers]
        return [kernel for kernel in kernels if kernel.requires_grad]

    @property
    def unlabeled(self) -> list[str]:
        """The tasks that had no valid pixel in the last batch. A GPU is waited for."""
        return [task for task, labeled in self._labeled.items() if not labeled]

    def _means(self, sums: Mapping[str, LossSum]) -> tuple[Losses, dict[str, Tensor]]:
        """The mean of each, and whether anything was summed up."""
        counts = self._add_up(torch.stack([loss.count for loss in sums.values()]).float())
        means = {
            task: loss.total / count.clamp_min(1) * self._processes
            for (task, loss), count in zip(sums.items(), counts, strict=True)
        }
        return means, dict(zip(sums, counts > 0, strict=True))


def _trained_factors(layer: nn.Module) -> list[Factor]:
    return [factor for factor in factors(layer) if factor.parameter.requires_grad]


def _trained(factor: Factor, default: float | None) -> Trained:
    """``default``: the weight decay of a factor whose method names none, and that is no kernel."""
    decay = factor.weight_decay
    if decay is None and not factor.kernel:
        decay = default
    return Trained(factor.parameter, factor.lr_scale, decay)
