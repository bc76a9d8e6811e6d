"""Diverse branch blocks: two of the branches are sequences of a pointwise convolution and another one.

Ding et al., "Diverse Branch Block: Building a Convolution as an Inception-like Unit" (CVPR 2021, arXiv
2103.13425), section 3.3 and figure 3:

    y = BN(W * x) + BN(W_1 * x) + BN(W_3 * BN(W_2 * x)) + BN(A * BN(W_4 * x))

W [co, ci / g, kh, kw] in g convolution groups, W_1 and W_4 [co, ci / g, 1, 1], W_2 [c, ci / g, 1, 1],
W_3 [co, c / g, kh, kw], and A the mean over kh x kw. As in the authors' code c = ci and W_2 starts as the
identity, but for depthwise convolutions, where c = 2 ci; these keep all four branches here. Between the two
convolutions of a sequence the border is padded with what BN gives for zero, so that they are one convolution
(transforms III and V) up to the border.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgemtl.kernels.base import UnsupportedError
from edgemtl.kernels.block import BlockMethod, Branch, around, fused, norm_like, pair, pointwise


class DBB(BlockMethod, frozen=True, kw_only=True, tag="dbb"):
    """Any stride, padding, dilation and groups; no 1x1 kernels, which have no other sizes within."""

    def beside(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> list[Branch]:
        """W_1, W_3 after W_2 and A after W_4."""
        if conv.kernel_size == (1, 1):
            raise UnsupportedError("every branch beside a 1x1 kernel would be one more of it")
        return [*pointwise(conv, norm), _Expanded(conv, norm), _Averaged(conv, norm)]


class _Sequence(Branch):
    """[B, ci, h, w] -> a pointwise convolution -> BN -> padding -> ``second`` -> BN -> [B, co, h', w']."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(conv.in_channels, channels, 1, groups=conv.groups, bias=False)
        self.inner = norm_like(norm, channels)
        self.norm = norm_like(norm)
        self.padding = around(pair(conv.padding))

    @abstractmethod
    def second(self, x: Tensor) -> Tensor:
        """[B, c, h, w], padded -> [B, co, h', w']."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, ci, h, w] -> [B, co, h', w']."""
        between = self.inner(self.first(x))
        border = _at_zero(self.inner)
        normal: Tensor = self.norm(self.second(F.pad(between - border, self.padding) + border))
        return normal


class _Expanded(_Sequence):
    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        depthwise = conv.groups == conv.out_channels
        super().__init__(conv, norm, (2 if depthwise else 1) * conv.in_channels)
        if not depthwise:
            nn.init.dirac_(self.first.weight, conv.groups)
        self.conv = nn.Conv2d(
            self.first.out_channels,
            conv.out_channels,
            pair(conv.kernel_size),
            pair(conv.stride),
            dilation=pair(conv.dilation),
            groups=conv.groups,
            bias=False,
        )

    def second(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(x)
        return result

    def fuse(self) -> tuple[Tensor, Tensor]:
        """K[o, i] = sum_m K_2[o, m] K_1[m, i] within each group; the bias of the first goes through K_2."""
        first, shift = fused(self.first.weight, None, self.inner)
        groups, weight = self.conv.groups, self.conv.weight.detach()
        mixing = first.view(groups, -1, first.shape[1])
        taps = weight.view(groups, -1, *weight.shape[1:])
        kernel = torch.einsum("gomhw,gmi->goihw", taps, mixing).flatten(0, 1)
        bias = torch.einsum("gomhw,gm->go", taps, shift.view(groups, -1)).flatten()
        return fused(kernel, bias, self.norm)


class _Averaged(_Sequence):
    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        super().__init__(conv, norm, conv.out_channels)
        self.size, self.stride, self.dilation = conv.kernel_size, conv.stride, conv.dilation

    def second(self, x: Tensor) -> Tensor:
        # Average pooling knows no dilation, and on a CPU it takes four times as long as this convolution.
        mean = x.new_full((x.shape[1], 1, *self.size), 1 / (self.size[0] * self.size[1]))
        return F.conv2d(x, mean, None, self.stride, 0, self.dilation, x.shape[1])

    def fuse(self) -> tuple[Tensor, Tensor]:
        """Every tap is an equal share of the first kernel, and the mean of a constant is that constant."""
        first, shift = fused(self.first.weight, None, self.inner)
        height, width = self.size
        return fused(first.expand(-1, -1, height, width) / (height * width), shift, self.norm)


def _at_zero(norm: nn.BatchNorm2d) -> Tensor:
    """[1, c, 1, 1], what a normalization gives for zero in eval mode; a constant, as in the authors' code."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight.detach() * torch.rsqrt(norm.running_var + norm.eps)
    return (norm.bias.detach() - norm.running_mean * scale).view(1, -1, 1, 1)
