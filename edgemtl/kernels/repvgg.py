"""RepVGG blocks: the kernel, a pointwise one and the identity, each normalized.

Ding et al., "RepVGG: Making VGG-style ConvNets Great Again" (CVPR 2021, arXiv 2101.03697), section 3.2:

    y = BN(W * x) + BN(W_1 * x) + BN(x),    W [co, ci / g, kh, kw],  W_1 [co, ci / g, 1, 1]

in g convolution groups; BN(x) only where the result has the shape of x. In eval mode BN(W * x) is
(gamma / sigma) W * x + beta - gamma mu / sigma (eq. 3); W_1 and the identity stand in the middle of W.
"""

from __future__ import annotations

from torch import nn

from edgemtl.kernels.block import BlockMethod, Branch, pointwise, shortcut


class RepVGG(BlockMethod, frozen=True, kw_only=True, tag="repvgg"):
    """Any stride, padding, dilation and groups. A 1x1 kernel has the identity beside it alone."""

    def beside(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> list[Branch]:
        """W_1 and the identity."""
        return [*pointwise(conv, norm), *shortcut(conv, norm)]
