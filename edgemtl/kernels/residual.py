"""Residual factors beside the kernel, of single tasks or shared: the own family of edgemtl.

The weight W [co, ci, kh, kw] of every convolution group is multiplied on the sides chosen by products of
factors that are the identity at the start,

    W' = (I + A) W (I + B),    I + B = (I + B_1) (I + B_2) ...,    A_j = B_j = 0 at the start,

with a factor for each task of the group, one that all tasks share, or both. On the side ``spatial`` B_j is
[ci, kh kw, kh kw] and mixes the positions of each input channel, as the D of DO-Conv (Cao et al. 2020,
arXiv 2006.12030); on the side ``input`` it is [ci, ci], on the side ``output`` A_j is [co, co]. The network
computes at the start what it computed before, and W keeps the kernel's own scale, which the factors of an SVD
do not. Linear layers are the case kh = kw = 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
import torch
from torch import Tensor, nn

from edgemtl.core.errors import UsageError
from edgemtl.core.plan import Group
from edgemtl.kernels.base import UnsupportedError
from edgemtl.kernels.weight import Kernel, Shape, WeightMethod, rate_of, shape_of

Side = Literal["spatial", "input", "output"]


class Residual(WeightMethod, frozen=True, kw_only=True, tag="residual"):
    """``sides``: where W is multiplied; a side of size 1 is left out, since its factors would only scale.

    ``owned``: whether the factors belong to the tasks, to all tasks, or one to each and one to all. Groups
    that fork share W and the factors of all, and differ by those of their tasks.
    """

    sides: Annotated[tuple[Side, ...], msgspec.Meta(min_length=1)] = ("spatial",)
    owned: Literal["tasks", "shared", "both"] = "tasks"

    def __post_init__(self) -> None:
        if len(set(self.sides)) < len(self.sides):
            raise UsageError(
                "$.kernel.sides",
                expected="each side once",
                found=", ".join(self.sides),
                fix="Name a side once; `owned: both` gives it more factors.",
            )

    def kernel(self, layer: nn.Module, group: Group) -> Kernel:
        """W and the factors of the sides that this layer has."""
        shape = shape_of(layer)
        sides = tuple(side for side in self.sides if _size(shape, side) > 1)
        if not sides:
            raise UnsupportedError(f"of size 1 on the side {', '.join(self.sides)}: factors would only scale")
        owners = {"tasks": group, "shared": (None,), "both": (None, *group)}[self.owned]
        return ResidualKernel(shape, sides, owners)


class ResidualKernel(Kernel):
    """Factors W, as the layer has it, then for each side one of every owner: [g ci, kh kw, kh kw] (spatial),
    [g, ci, ci] (input) or [g, co, co] (output); g conv groups of ci input and co output channels.
    """

    def __init__(self, shape: Shape, sides: Sequence[Side], owners: Sequence[str | None]) -> None:
        super().__init__()
        self.residual = True
        self.shape, self.sides, self.depth = shape, tuple(sides), len(owners)
        self.owners = (None, *(owner for _ in sides for owner in owners))
        self.rates = (1.0, *(rate_of(_size(shape, side)) for side in sides for _ in owners))

    def forward(self, *factors: Tensor) -> Tensor:
        """(I + A) W (I + B)."""
        weight, *residuals = factors
        groups, outputs, inputs, *_ = self.shape
        positions = self.shape.positions
        chains = (residuals[start : start + self.depth] for start in range(0, len(residuals), self.depth))
        found = {side: _product(chain) for side, chain in zip(self.sides, chains, strict=True)}
        # With input channels before output channels, both sides on the right are batched products of views.
        kernel = weight.reshape(groups, outputs, inputs, positions).transpose(1, 2)
        if "spatial" in found:
            kernel = kernel.reshape(groups * inputs, outputs, positions)
            kernel = torch.baddbmm(kernel, kernel, found["spatial"])
        if "input" in found:
            kernel = kernel.reshape(groups, inputs, outputs * positions)
            kernel = torch.baddbmm(kernel, found["input"], kernel)
        kernel = kernel.reshape(groups, inputs, outputs, positions).transpose(1, 2)
        if "output" in found:
            kernel = kernel.reshape(groups, outputs, inputs * positions)
            kernel = torch.baddbmm(kernel, found["output"], kernel)
        return kernel.reshape(weight.shape).contiguous()

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        """W itself, and zeros."""
        residuals = (
            weight.new_zeros(self._batch(side), size, size)
            for side in self.sides
            for size in [_size(self.shape, side)] * self.depth
        )
        return weight, *residuals

    def _batch(self, side: Side) -> int:
        return self.shape.groups * (self.shape.inputs if side == "spatial" else 1)


def _size(shape: Shape, side: Side) -> int:
    return {"spatial": shape.positions, "input": shape.inputs, "output": shape.outputs}[side]


def _product(residuals: Sequence[Tensor]) -> Tensor:
    """(I + D_1) (I + D_2) ... - I."""
    product, *rest = residuals
    for residual in rest:
        product = torch.baddbmm(product + residual, product, residual)
    return product
