"""MobileOne blocks: RepVGG with several kernels of full size.

Vasu et al., "MobileOne: An Improved One millisecond Mobile Backbone" (CVPR 2023, arXiv 2206.04040), section
3.3 and figure 3:

    y = sum_{n=1..N} BN(W_n * x) + BN(W_0 * x) + BN(x),    W_n [co, ci / g, kh, kw],  W_0 [co, ci / g, 1, 1]

in g convolution groups; BN(x) only where the result has the shape of x, W_0 only where the kernel is larger.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from torch import nn

from edgemtl.kernels.block import BlockMethod, Branch, pair, pointwise, shortcut, window


class MobileOne(BlockMethod, frozen=True, kw_only=True, tag="mobileone"):
    """``branches``: N above. Any stride, padding, dilation and groups."""

    branches: Annotated[int, msgspec.Meta(ge=1)] = 4

    def beside(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> list[Branch]:
        """W_2..W_N, W_0 and the identity."""
        full = [window(conv, norm, *pair(conv.kernel_size)) for _ in range(self.branches - 1)]
        return [*full, *pointwise(conv, norm), *shortcut(conv, norm)]
