"""Factorized kernels with factors of the tasks between shared ones ("UMV", reconstructed).

After Ren & Shi, "Learning Compact Neural Networks with Deep Overparameterised Multitask Learning"
(arXiv 2308.13300), of which only the abstract and related patent claims were read: this is a reconstruction.
The weight W [co, ci, kh, kw] of every convolution group, transposed to [ci, kh, co, kw] and read as a matrix
(ci kh) x (co kw), is the product (spatial SVD, Jaderberg et al. 2014)

    W_G = U f(M(t) for t in G) V,    U: (ci kh) x r,  M(t): r or r x r,  V: r x (co kw),  r = min(ci kh, co
    kw)

for a group G of tasks; U and V are shared by all tasks, M(t) belongs to task t. f is the product, mean or
sum. At the start U S V is the singular value decomposition of the plain initialization and f(M) = S, so that
the network computes what it computed before. Linear layers are the case kh = kw = 1.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from edgemtl.core.plan import Group
from edgemtl.kernels.base import UnsupportedError
from edgemtl.kernels.weight import Kernel, WeightMethod

Combine = Literal["product", "mean", "sum"]


class Factorized(WeightMethod, frozen=True, kw_only=True, tag="factorized"):
    """``combine``: f above. ``middle``: whether M(t) is a diagonal or a full matrix."""

    combine: Combine = "product"
    middle: Literal["diagonal", "full"] = "diagonal"

    def kernel(self, layer: nn.Module, group: Group) -> Kernel:
        """The factors of a convolution (any stride, padding, dilation, groups) or a linear layer."""
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            raise UnsupportedError(f"{type(layer).__name__} is neither Conv2d nor Linear")
        groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
        return _UMV(tuple(layer.weight.shape), groups, group, self.combine, self.middle == "full")


class _UMV(Kernel):
    """Factors U [g, ci kh, r], V [g, r, co kw] and, for each task, M [g, r] or [g, r, r]; g conv groups."""

    def __init__(
        self, shape: tuple[int, ...], groups: int, tasks: Group, combine: Combine, full: bool
    ) -> None:
        super().__init__()
        self.shape, self.groups, self.combine, self.full = shape, groups, combine, full
        self.owners = (None, None, *tasks)

    def forward(self, *factors: Tensor) -> Tensor:
        u, v, *middles = factors
        middle = self._combined(middles)
        matrix = u @ middle @ v if self.full else (u * middle.unsqueeze(-2)) @ v
        out_channels, in_channels, *kernel = self.shape
        height, width = kernel or (1, 1)
        split = matrix.view(self.groups, in_channels, height, out_channels // self.groups, width)
        return split.permute(0, 3, 1, 2, 4).reshape(self.shape)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        u, s, v = torch.linalg.svd(self._matrix(weight).double(), full_matrices=False)
        count = len(self.owners) - 2
        share = {"product": s.pow(1 / count), "mean": s, "sum": s / count}[self.combine]
        middle = torch.diag_embed(share) if self.full else share
        # Each factor is a tensor of its own: tasks that start equal must not stay one.
        return tuple(factor.to(weight.dtype, copy=True).contiguous() for factor in (u, v, *[middle] * count))

    def _combined(self, middles: list[Tensor]) -> Tensor:
        if self.combine == "product":
            product = middles[0]
            for middle in middles[1:]:
                product = product @ middle if self.full else product * middle
            return product
        total = torch.stack(middles).sum(0)
        return total / len(middles) if self.combine == "mean" else total

    def _matrix(self, weight: Tensor) -> Tensor:
        """[co, ci, kh, kw] -> [g, ci kh, co kw]."""
        out_channels, in_channels, *kernel = self.shape
        height, width = kernel or (1, 1)
        split = weight.reshape(self.groups, out_channels // self.groups, in_channels, height, width)
        return split.permute(0, 2, 3, 1, 4).reshape(
            self.groups, in_channels * height, out_channels // self.groups * width
        )
