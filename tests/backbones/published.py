"""The names and shapes of torchvision's ResNets, as published, without torchvision."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
PARAMETERS = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032}


def resnet_state(depth: int) -> dict[str, Tensor]:
    """A state dict with random values."""
    state = conv("conv1", 3, 64, 7) | norm("bn1", 64)
    channels = 64
    for layer, blocks in enumerate(BLOCKS[depth], start=1):
        width = 32 * 2**layer
        out = 4 * width if depth == 50 else width
        for block in range(blocks):
            name = f"layer{layer}.{block}"
            shapes = [(channels, width, 3), (width, width, 3)]
            if depth == 50:
                shapes = [(channels, width, 1), (width, width, 3), (width, out, 1)]
            for index, shape in enumerate(shapes, start=1):
                state |= conv(f"{name}.conv{index}", *shape) | norm(f"{name}.bn{index}", shape[1])
            if block == 0 and (layer > 1 or depth == 50):
                state |= conv(f"{name}.downsample.0", channels, out, 1) | norm(f"{name}.downsample.1", out)
            channels = out
    return state | {"fc.weight": torch.randn(1000, channels), "fc.bias": torch.randn(1000)}


def conv(name: str, channels: int, out: int, kernel: int) -> dict[str, Tensor]:
    return {f"{name}.weight": torch.randn(out, channels, kernel, kernel)}


def norm(name: str, channels: int) -> dict[str, Tensor]:
    names = ("weight", "bias", "running_mean", "running_var")
    tensors = {f"{name}.{key}": torch.rand(channels) + 0.5 for key in names}
    return tensors | {f"{name}.num_batches_tracked": torch.tensor(7)}
