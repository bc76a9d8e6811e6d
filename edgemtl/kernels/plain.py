"""Plain kernels: the network is trained as it is deployed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from edgemtl.core.inspection import Skipped
from edgemtl.core.plan import Group
from edgemtl.kernels.base import KernelMethod, UnsupportedError


class Plain(KernelMethod, frozen=True, kw_only=True, tag="plain"):
    """No factors. The baseline of every other method."""

    def check_reach(self, layers: Sequence[str], skipped: Sequence[Skipped]) -> None:
        """Nothing to check: every layer is to stay plain."""

    def attach(self, path: str, copies: Mapping[Group, nn.Module]) -> None:
        """Always refuses."""
        raise UnsupportedError("kernels are plain")
