"""Fixed weights, equal unless given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgemtl.balancing.base import Balancer, Balancing, Losses, Weights, check_weights


class Fixed(Balancing, frozen=True, kw_only=True, tag="fixed"):
    """``weights`` by task; a task that is not named has weight 1."""

    weights: Weights = {}

    def build(self, tasks: Sequence[str]) -> Balancer:
        """A balancer that multiplies each loss by its weight."""
        check_weights(self.weights, tasks)
        return _Fixed(self.weights)


class _Fixed(Balancer):
    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = dict(weights)

    def forward(self, losses: Losses) -> Losses:
        return {task: self.weights.get(task, 1.0) * loss for task, loss in losses.items()}

    def end_epoch(self, means: Mapping[str, float]) -> None:
        """Fixed weights stay."""
