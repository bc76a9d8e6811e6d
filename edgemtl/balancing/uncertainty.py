"""Uncertainty weighting.

Kendall, Gal & Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and
Semantics" (CVPR 2018), equation 7 with s = log sigma^2: what is minimized is

    sum over tasks t of  exp(-s_t) L_t / 2 + s_t / 2

over the network and the s_t, which start at 0. At its minimum s_t = log L_t, so tasks count by the relative
change of their losses, whatever their units. A task's loss takes its own s_t / 2 along: the sum is then the
formula however the losses are routed, and no gradient of the network changes by it.

Relative change is not always what matters: a weight w_t makes a task's term count w_t times. Its s_t still
goes to log L_t, so weights hold whatever the scale of the losses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from edgemtl.balancing.base import Balancer, Balancing, Losses, Weights, check_weights


class Uncertainty(Balancing, frozen=True, kw_only=True, tag="uncertainty"):
    """Learns a log-variance a task, with the optimizer and the learning rate of the network. ``weights`` by
    task say what counts more; a task that is not named has weight 1.
    """

    weights: Weights = {}

    def build(self, tasks: Sequence[str]) -> Balancer:
        """A balancer that starts by halving each loss, times its weight."""
        check_weights(self.weights, tasks)
        return _Uncertainty(tasks, self.weights)


class _Uncertainty(Balancer):
    def __init__(self, tasks: Sequence[str], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        self.weights = dict(weights)
        # Scalars apart, not one vector: each is reached by the loss of its own task alone.
        self.log_variances = nn.ParameterList(torch.zeros(()) for _ in tasks)

    def forward(self, losses: Losses) -> Losses:
        log_variance = dict(zip(self.tasks, self.log_variances, strict=True))
        return {
            task: self.weights.get(task, 1.0) / 2 * ((-log_variance[task]).exp() * loss + log_variance[task])
            for task, loss in losses.items()
        }

    def end_epoch(self, means: Mapping[str, float]) -> None:
        """It learns from every batch."""
