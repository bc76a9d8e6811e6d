"""Plain kernels: the network is trained as it is deployed."""

from __future__ import annotations

from torch import nn

from edgemtl.core.plan import Group
from edgemtl.kernels.base import Kernel, KernelMethod, UnsupportedError


class Plain(KernelMethod, frozen=True, kw_only=True, tag="plain"):
    """No factors. The baseline of every other method."""

    def kernel(self, layer: nn.Module, group: Group) -> Kernel:
        """Always refuses."""
        raise UnsupportedError("kernels are plain")
