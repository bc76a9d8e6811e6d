"""Asymmetric convolution blocks: the kernel's middle column and middle row have kernels of their own.

Ding et al., "ACNet: Strengthening the Kernel Skeletons for Powerful CNN via Asymmetric Convolution Blocks"
(ICCV 2019, arXiv 1908.03930), section 3.2:

    y = BN(W * x) + BN(W_c * x) + BN(W_r * x),    W [co, ci / g, kh, kw],  W_c [.., kh, 1],  W_r [.., 1, kw]

in g convolution groups; W_c and W_r are added to the middle of W (eq. 7, with the scales of the BN).
"""

from __future__ import annotations

from torch import nn

from edgemtl.kernels.base import UnsupportedError
from edgemtl.kernels.block import BlockMethod, Branch, window


class ACNet(BlockMethod, frozen=True, kw_only=True, tag="acnet"):
    """Any stride, padding, dilation and groups. A kernel that is a row or a column has a pointwise one."""

    def beside(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> list[Branch]:
        """W_c and W_r, but for the one that is the kernel itself."""
        if conv.kernel_size == (1, 1):
            raise UnsupportedError("a 1x1 kernel has no row and no column")
        height, width = conv.kernel_size
        return [window(conv, norm, *size) for size in ((height, 1), (1, width)) if size != conv.kernel_size]
