"""ExpandNet: a convolution as three linear ones (Guo, Alvarez and Salzmann 2020, arXiv 1811.10495, "CL").

A convolution of ci to co channels is a 1x1 to m = e ci channels, one of its own size to n = e co, and a 1x1
to co, with nothing between them. Composed in weight space, for every convolution group,

    W'[:, :, y, x] = C K[:, :, y, x] A,    C: co x n,  K: n x m x kh x kw,  A: m x ci,

so that no wide activation is computed, and borders are exact: padding stands before A. Linear layers are the
case kh = kw = 1.

The paper is about compact networks, with e = 4. Composing costs (e^2 ci + e co) / (B H W) of the convolution:
.2 for 64 channels on maps of 18x24 in batches of 16, but 6 for 512 channels in batches of 4. So no layer is
expanded beyond ``widest`` channels.
"""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
import torch
from torch import Tensor, nn

from edgemtl.core.plan import Group
from edgemtl.kernels.weight import Kernel, Shape, WeightMethod, rate_of, shape_of


class ExpandNet(WeightMethod, frozen=True, kw_only=True, tag="expandnet"):
    """``expansion``: e above, up to ``widest`` channels, in or out; layers that are as wide keep their width.

    Groups that fork share nothing.
    """

    expansion: Annotated[int, msgspec.Meta(ge=1)] = 4
    widest: Annotated[int, msgspec.Meta(ge=1)] = 512

    def kernel(self, layer: nn.Module, group: Group) -> Kernel:
        """C, K and A of a convolution (any stride, padding, dilation, groups) or a linear layer."""
        shape = shape_of(layer)
        before, after = self._expanded(shape.inputs), self._expanded(shape.outputs)
        return _Expanded(shape, tuple(layer.get_parameter("weight").shape), before, after)

    def _expanded(self, channels: int) -> int:
        return max(channels, min(self.expansion * channels, self.widest))


class _Expanded(Kernel):
    """Factors C [g, co, n], K [g, n, kh kw m] and A [g, m, ci]; g conv groups."""

    def __init__(self, shape: Shape, weight_shape: tuple[int, ...], before: int, after: int) -> None:
        super().__init__()
        self.shape, self.weight_shape = shape, weight_shape
        self.before, self.after = before, after  # m and n
        expansion = math.sqrt(before * after / (shape.inputs * shape.outputs))
        self.owners = (None, None, None)
        # Every entry of the kernel is reached through n m entries of K of 1 / sqrt(n m) each, so K moves it e
        # times as fast as its own entry would.
        self.rates = (rate_of(self.after), 1 / expansion, rate_of(self.before))

    def forward(self, *factors: Tensor) -> Tensor:
        last, middle, first = factors
        groups, outputs, inputs, *_ = self.shape
        positions = self.shape.positions
        # From the right: networks widen, so inputs are the fewer. Every product is one of views.
        narrowed = middle.reshape(groups, self.after * positions, self.before) @ first
        kernel = last @ narrowed.view(groups, self.after, positions * inputs)
        split = kernel.view(groups * outputs, positions, inputs)
        return split.transpose(1, 2).reshape(self.weight_shape).contiguous()

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        groups, outputs, inputs, *_ = self.shape
        kernel = weight.double().reshape(groups, outputs, inputs, self.shape.positions)
        # Random orthonormal C C^T = I and A^T A = I, so that K = C^T W A^T; equal entries would stay equal.
        last = _orthonormal(groups, self.after, outputs).mT.to(weight.device)
        first = _orthonormal(groups, self.before, inputs).to(weight.device)
        middle = torch.einsum("gon,goip,gmi->gnpm", last, kernel, first).flatten(2)
        return tuple(factor.to(weight.dtype).contiguous() for factor in (last, middle, first))


def _orthonormal(count: int, rows: int, columns: int) -> Tensor:
    """Matrices [count, rows, columns] with orthonormal columns."""
    basis: Tensor = torch.linalg.qr(torch.randn(count, rows, columns, dtype=torch.float64)).Q
    return basis
