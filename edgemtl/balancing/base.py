"""What every balancer is: it weighs the tasks' losses before they are added or routed.

A balancer keeps the losses apart, since a routed step leads each task's share its own way. Formulas that only
give a scalar, such as torchjd's scalarizers, do not fit, so members write theirs out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
from torch import Tensor, nn

from edgemtl.core.errors import UsageError, nearest

Losses = dict[str, Tensor]
Weights = dict[str, Annotated[float, msgspec.Meta(ge=0)]]


class Balancer(nn.Module, ABC):
    """A module, so that what it learns is trained, saved and resumed with the network."""

    @abstractmethod
    def forward(self, losses: Losses) -> Losses:
        """The scalar loss of each task, or of some -> the same, weighted; their sum is what training
        minimizes.
        """

    @abstractmethod
    def end_epoch(self, means: Mapping[str, float]) -> None:
        """An epoch of training has ended, in which the tasks had these mean losses, unweighted and over the
        batches of all processes. A task that had no label in any of them is left out.
        """


class Balancing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """The base of every balancer's spec; a member lives in a file of its own and joins ``BalancingSpec``."""

    def build(self, tasks: Sequence[str]) -> Balancer:
        """A balancer for these tasks.

        Raises:
            UsageError: the spec names a task that is not there.
        """
        raise NotImplementedError


def check_weights(weights: Mapping[str, float], tasks: Sequence[str]) -> None:
    """That weights are those of tasks, of which a task that is not named has 1.

    Raises:
        UsageError: one is of a task that is not there, or no task counts.
    """
    for task in weights:
        if task not in tasks:
            raise UsageError(
                f"$.balancing.weights.{task}",
                expected="a task of this recipe",
                found=f"`{task}`",
                fix=nearest(task, tasks),
            )
    if not any(weights.get(task, 1.0) for task in tasks):
        raise UsageError(
            "$.balancing.weights",
            expected="a weight above 0 for some task",
            found=f"0 for {', '.join(tasks)}",
            fix="Leave out the tasks that are not to be trained.",
        )
