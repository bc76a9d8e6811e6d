"""Exponential moving average of the weights (Polyak and Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """``value <- d * value + (1 - d) * weight`` after every step; buffers are copied.

    d is ``decay``, and less at first, (1 + step) / (10 + step), so that what the weights were before training
    is soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state: dict[str, Tensor] = {
            key: value.detach().clone() for key, value in model.state_dict().items()
        }
        self._averaged = {key for key, _ in model.named_parameters(remove_duplicate=False)}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after a step; ``step`` counts from 0."""
        values, weights = [], []
        for key, value in model.state_dict().items():
            if key in self._averaged:
                values.append(self.state[key])
                weights.append(value)
            else:
                self.state[key].copy_(value)
        torch._foreach_lerp_(values, weights, 1 - min(self.decay, (1 + step) / (10 + step)))

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Within the block the model has the averaged weights."""
        trained = {key: value.clone() for key, value in model.state_dict().items()}
        model.load_state_dict(self.state)
        try:
            yield
        finally:
            model.load_state_dict(trained)
