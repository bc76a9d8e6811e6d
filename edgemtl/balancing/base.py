"""What every balancer is: it weighs the tasks' losses before they are added or routed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import msgspec
from torch import Tensor, nn

Losses = dict[str, Tensor]


class Balancer(nn.Module, ABC):
    """A module, so that what it learns is trained, saved and resumed with the network."""

    @abstractmethod
    def forward(self, losses: Losses) -> Losses:
        """The scalar loss of each task -> the same, weighted; their sum is what training minimizes."""


class Balancing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """The base of every balancer's spec; a member lives in a file of its own and joins ``BalancingSpec``."""

    def build(self, tasks: Sequence[str]) -> Balancer:
        """A balancer for these tasks.

        Raises:
            RecipeError: the spec names a task that is not there.
        """
        raise NotImplementedError
