"""DO-Conv: a depthwise kernel before the kernel, folded into it (Cao et al. 2020, arXiv 2006.12030).

Each input channel i has a matrix D_i [kh kw, kh kw] over the kernel's spatial positions, and the kernel is

    W'[o, i] = W[o, i] (I + D_i),    D = 0 at the start,

with D_mul = kh kw of the paper and the identity split off. It is the residual kernel with one shared factor
on the spatial side.
"""

from __future__ import annotations

from torch import nn

from edgemtl.core.plan import Group
from edgemtl.kernels.base import UnsupportedError
from edgemtl.kernels.residual import ResidualKernel
from edgemtl.kernels.weight import Kernel, WeightMethod, shape_of


class DOConv(WeightMethod, frozen=True, kw_only=True, tag="doconv"):
    """W and D; groups that fork have both of their own."""

    def kernel(self, layer: nn.Module, group: Group) -> Kernel:
        """W and D of a convolution of any stride, padding, dilation and groups."""
        shape = shape_of(layer)
        if shape.positions == 1:
            raise UnsupportedError(f"{type(layer).__name__} with a 1x1 kernel: D would only scale its inputs")
        return ResidualKernel(shape, ("spatial",), (None,))
