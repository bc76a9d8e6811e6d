"""Dynamic weight average.

Liu, Johns & Davison, "End-to-End Multi-Task Learning with Attention" (CVPR 2019), equation 7: in epoch e the
loss of task t of K counts

    K softmax_t(r_t / T),    r_t = L_t(e - 1) / L_t(e - 2)

with L_t(e) its mean loss over epoch e: what has stopped to fall counts more. Weights are 1 until two epochs
have ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
import torch
from torch import Tensor

from edgemtl.balancing.base import Balancer, Balancing, Losses


class DWA(Balancing, frozen=True, kw_only=True, tag="dwa"):
    """``temperature``: T above; the higher, the more equal the weights."""

    temperature: Annotated[float, msgspec.Meta(gt=0)] = 2.0

    def build(self, tasks: Sequence[str]) -> Balancer:
        """A balancer that weighs each loss by how fast it fell."""
        return _DWA(tasks, self.temperature)


class _DWA(Balancer):
    weights: Tensor
    last_means: Tensor

    def __init__(self, tasks: Sequence[str], temperature: float) -> None:
        super().__init__()
        self.tasks, self.temperature = tuple(tasks), temperature
        self.register_buffer("weights", torch.ones(len(tasks)))
        self.register_buffer("last_means", torch.zeros(len(tasks)))  # 0: no epoch has ended yet

    def forward(self, losses: Losses) -> Losses:
        weights = dict(zip(self.tasks, self.weights, strict=True))
        return {task: weights[task] * loss for task, loss in losses.items()}

    def end_epoch(self, means: Mapping[str, float]) -> None:
        before = dict(zip(self.tasks, self.last_means.tolist(), strict=True))
        latest = self.last_means.new_tensor([means.get(task, before[task]) for task in self.tasks])
        # A loss of 0 has nothing left to fall: it counts as one that stayed as it was.
        rates = torch.where(self.last_means > 0, latest / self.last_means, 1.0)
        self.weights = len(self.tasks) * torch.softmax(rates / self.temperature, dim=0)
        self.last_means = latest
