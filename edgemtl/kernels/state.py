"""The state that an overparameterized network would have if it had been plain all along."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgemtl.kernels.block import blocks
from edgemtl.kernels.weight import parametrized, weight_of


def composed_state(model: nn.Module) -> dict[str, Tensor]:
    """The state with every kernel composed and every block fused; names as before overparameterization."""
    state: dict[str, Tensor] = dict(model.state_dict())
    with torch.no_grad():
        for path, layer in parametrized(model):
            for key in [key for key in state if key.startswith(_under(path, "parametrizations.weight."))]:
                del state[key]
            state[_under(path, "weight")] = weight_of(layer)
        for path, block in blocks(model):
            for key in [key for key in state if key.startswith(_under(path, ""))]:
                del state[key]
            stage = path.removesuffix(block.place.conv).removesuffix(".")
            state |= {_under(stage, key): value for key, value in block.plain_state().items()}
    return state


def _under(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
