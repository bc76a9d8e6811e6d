"""Optimizers and learning-rate schedules, as a recipe names them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
import torch
from torch import nn

from edgemtl.training.muon import Orthogonalizing, has_matrices

Positive = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
NonNegative = Annotated[float, msgspec.Meta(ge=0)]
Decay = Annotated[float, msgspec.Meta(ge=0, lt=1)]


class Trained(NamedTuple):
    """A parameter, its learning rate relative to the optimizer's, and its weight decay if not that one's."""

    parameter: nn.Parameter
    lr_scale: float = 1.0
    weight_decay: float | None = None


class Optimizer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """The base of the optimizers. ``lr`` is the highest learning rate; the schedule scales it."""

    lr: Positive = 1e-3
    weight_decay: NonNegative = 0.0

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """An optimizer over parameter groups (each with ``params``, ``lr`` and ``weight_decay``)."""
        raise NotImplementedError

    def groups(self, trained: Iterable[Trained]) -> list[dict[str, Any]]:
        """Parameter groups, by rate and weight decay."""
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for parameter, scale, decay in trained:
            key = (scale, self.weight_decay if decay is None else decay)
            groups.setdefault(key, []).append(parameter)
        return [
            {"params": parameters, "lr": self.lr * scale, "weight_decay": decay}
            for (scale, decay), parameters in groups.items()
        ]


class Adam(Optimizer, frozen=True, kw_only=True, tag="adam"):
    """Kingma and Ba 2015."""

    betas: tuple[Decay, Decay] = (0.9, 0.999)

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """torch.optim.Adam, fused."""
        return torch.optim.Adam(groups, betas=self.betas, fused=True)


class AdamW(Optimizer, frozen=True, kw_only=True, tag="adamw"):
    """Loshchilov and Hutter 2019."""

    betas: tuple[Decay, Decay] = (0.9, 0.999)
    weight_decay: NonNegative = 0.01

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """torch.optim.AdamW, fused."""
        return torch.optim.AdamW(groups, betas=self.betas, fused=True)


class SGD(Optimizer, frozen=True, kw_only=True, tag="sgd"):
    """Stochastic gradient descent with momentum."""

    momentum: Decay = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        if self.nesterov and self.momentum == 0:
            raise ValueError("Expected a `momentum` above 0 for `nesterov`, got 0")

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """torch.optim.SGD. Not fused: with fp16, momentum would be uninitialized memory where the first step
        overflows.
        """
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov)


class Muon(Optimizer, frozen=True, kw_only=True, tag="muon"):
    """Orthogonal steps for matrices and convolutions (Jordan 2024), AdamW at the same rate for all else."""

    momentum: Decay = 0.95

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """``Orthogonalizing`` and torch.optim.AdamW together."""
        parts: list[torch.optim.Optimizer] = []
        if matrices := _only(has_matrices, groups):
            parts.append(Orthogonalizing(matrices, self.momentum))
        if rest := _only(lambda parameter: not has_matrices(parameter), groups):
            parts.append(torch.optim.AdamW(rest, fused=True))
        return together(parts)


class Together(torch.optim.Optimizer):
    """Optimizers of different parameters that step, are saved and are loaded as one; see ``together``."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = tuple(parts)
        # The groups are those of the parts, not copies: a rate that is set here holds there.
        super().__init__([group for part in parts for group in part.param_groups], {})

    def step(self, closure: Any = None) -> Any:
        """A step of each; there is no closure."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Those of the parts."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load each part.

        Raises:
            ValueError: the state is of other parts.
        """
        for part, state in zip(self.parts, state_dict.get("parts", ()), strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def together(parts: Sequence[torch.optim.Optimizer]) -> torch.optim.Optimizer:
    """One optimizer of all; the part itself where there is but one."""
    return parts[0] if len(parts) == 1 else Together(parts)


def _only(chosen: Callable[[nn.Parameter], bool], groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The groups with some of their parameters, without those of which nothing is left."""
    kept = [{**group, "params": [p for p in group["params"] if chosen(p)]} for group in groups]
    return [group for group in kept if group["params"]]


class Schedule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """The base of the schedules. The rate rises linearly over ``warmup_steps`` first."""

    warmup_steps: Annotated[int, msgspec.Meta(ge=0)] = 0

    def factor(self, step: int, steps: int, epoch_steps: int) -> float:
        """The share of the highest rate at ``step`` of ``steps``: a function of the step alone, so that a
        resumed run needs no state of it.
        """
        warmup = min(1.0, (step + 1) / (self.warmup_steps + 1))
        return warmup * self._decay(step, steps, epoch_steps)

    def _decay(self, step: int, steps: int, epoch_steps: int) -> float:
        raise NotImplementedError


class Constant(Schedule, frozen=True, kw_only=True, tag="constant"):
    """No decay."""

    def _decay(self, step: int, steps: int, epoch_steps: int) -> float:
        return 1.0


class Step(Schedule, frozen=True, kw_only=True, tag="step"):
    """Multiply by ``gamma`` every ``epochs`` epochs."""

    epochs: Annotated[int, msgspec.Meta(ge=1)] = 100
    gamma: Share = 0.5

    def _decay(self, step: int, steps: int, epoch_steps: int) -> float:
        return float(self.gamma ** (step // (self.epochs * epoch_steps)))


class Cosine(Schedule, frozen=True, kw_only=True, tag="cosine"):
    """Half a cosine (Loshchilov and Hutter 2017) down to the share ``final``."""

    final: Share = 0.0

    def _decay(self, step: int, steps: int, epoch_steps: int) -> float:
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * step / steps))


class Poly(Schedule, frozen=True, kw_only=True, tag="poly"):
    """(1 - step / steps) to the power ``power``, as in DeepLab."""

    power: Positive = 0.9

    def _decay(self, step: int, steps: int, epoch_steps: int) -> float:
        return float((1 - step / steps) ** self.power)


OptimizerSpec = Adam | AdamW | SGD | Muon
ScheduleSpec = Constant | Step | Cosine | Poly
