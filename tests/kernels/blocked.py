"""A convolution and its normalization, plain and as a block, both having seen data."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from edgemtl.kernels import KernelMethod, composed_state, overparameterize
from edgemtl.kernels.block import Block

CONVS: dict[str, nn.Conv2d] = {
    "same": nn.Conv2d(6, 6, 3, padding=1),
    "wider": nn.Conv2d(6, 10, 3, padding=1, bias=False),
    "stride 2": nn.Conv2d(6, 6, 5, stride=2, padding=2),
    "groups": nn.Conv2d(6, 6, 3, padding=1, groups=3, bias=False),
    "wider groups": nn.Conv2d(6, 9, 3, padding=1, groups=3),
    "depthwise": nn.Conv2d(6, 6, 3, padding=1, groups=6),
    "dilation": nn.Conv2d(6, 6, 3, padding=2, dilation=2),
    "no padding": nn.Conv2d(6, 6, 3),
    "much padding": nn.Conv2d(6, 4, 3, padding=3),
    "a row": nn.Conv2d(6, 6, (1, 5), padding=(0, 2)),
    "all at once": nn.Conv2d(6, 8, (5, 3), stride=(1, 2), padding=(3, 0), dilation=(1, 2), groups=2),
}


def sequence(conv: nn.Conv2d) -> nn.Sequential:
    """The convolution with a normalization and an activation, in double precision."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(conv.out_channels, eps=1e-3, momentum=0.3)
    return nn.Sequential(copy.deepcopy(conv), norm, nn.ReLU()).double()


def blocked(method: KernelMethod, conv: nn.Conv2d) -> nn.Sequential:
    """The same as a block with no parameter or statistic at its initial value, in training mode."""
    stage = sequence(conv)
    skipped = overparameterize(method, "stage", {("a",): stage})
    assert not skipped, skipped
    for module in stage.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    for _ in range(3):
        stage(image(4, 13, 14))
    return stage


def block_of(stage: nn.Sequential) -> Block:
    """The block in the place of the convolution."""
    (block,) = (module for module in stage if isinstance(module, Block))
    return block


def image(count: int, height: int, width: int) -> Tensor:
    """[count, 6, height, width]."""
    return torch.rand(count, 6, height, width, dtype=torch.float64)


def assert_fuses_exactly(stage: nn.Sequential, conv: nn.Conv2d) -> None:
    """One convolution computes what the block does: inside, at the borders, and where all is border."""
    plain = sequence(conv).eval()
    plain.load_state_dict(composed_state(stage))
    stage.eval()
    for size in ((13, 14), (8, 11), (5, 5)):
        x = image(2, *size)
        torch.testing.assert_close(plain(x), stage(x), rtol=1e-11, atol=1e-12)
