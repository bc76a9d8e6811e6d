"""Blocks: a convolution and its batch normalization are trained as branches, each with a normalization of its
own, whose sum is again one convolution.

Statistics of a batch stand between the branches and the sum, so while training this is no kernel, and each
branch runs. In eval mode every branch is a convolution with a bias, and ``fuse`` adds them up.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from edgemtl.core.plan import Group
from edgemtl.folding import followed_by_norm
from edgemtl.kernels.base import KernelMethod, UnsupportedError


@dataclass(frozen=True)
class Place:
    """Where in a stage a block stands: the paths of the convolution and the normalization that it replaces,
    whether that convolution has a bias, and the normalization's epsilon.
    """

    conv: str
    norm: str
    bias: bool
    eps: float


class Block(nn.Module, ABC):
    """Branches [B, ci, h, w] -> [B, co, h', w'] that are added up; stands where the convolution stood."""

    place: Place

    @abstractmethod
    def fuse(self) -> tuple[Tensor, Tensor]:
        """The kernel, of the convolution's shape, and the bias [co] that compute the same in eval mode."""

    def plain_state(self) -> dict[str, Tensor]:
        """The state of the convolution and the normalization in its place that compute the same in eval mode;
        names as in the stage.
        """
        kernel, bias = self.fuse()
        conv, norm = self.place.conv, self.place.norm
        state = {
            f"{conv}.weight": kernel,
            f"{norm}.weight": torch.ones_like(bias),
            f"{norm}.bias": bias,
            f"{norm}.running_mean": torch.zeros_like(bias),
            f"{norm}.running_var": torch.full_like(bias, 1 - self.place.eps),
            f"{norm}.num_batches_tracked": torch.tensor(0),
        }
        return {**state, f"{conv}.bias": torch.zeros_like(bias)} if self.place.bias else state


class BlockMethod(KernelMethod, frozen=True, kw_only=True):
    """The base of the methods that replace a convolution and the normalization after it by a block."""

    def block(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Block:
        """The block that takes their place; one of its branches is these two as they are.

        Raises:
            UnsupportedError: this method cannot do this convolution.
        """
        raise NotImplementedError

    def attach(self, path: str, copies: Mapping[Group, nn.Module]) -> None:
        """Put a block in every copy; groups share nothing. See ``KernelMethod.attach``."""
        first = next(iter(copies.values()))
        conv = first.get_submodule(path)
        if not isinstance(conv, nn.Conv2d):
            raise UnsupportedError(f"{type(conv).__name__} is no Conv2d")
        if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            raise UnsupportedError("branches of other sizes need numbers as padding, and zeros to pad with")
        follower = followed_by_norm(first).get(path)
        if follower is None:
            raise UnsupportedError("its result is not read by one batch normalization alone")
        norm = first.get_submodule(follower)
        if not isinstance(norm, nn.BatchNorm2d) or not (norm.affine and norm.track_running_stats):
            raise UnsupportedError("the normalization after it has no scale or no running statistics")
        block = self.block(conv, norm)
        block.place = Place(path, follower, conv.bias is not None, norm.eps)
        for stage in copies.values():
            stage.set_submodule(path, copy.deepcopy(block))
            stage.set_submodule(follower, nn.Identity())


def blocks(model: nn.Module) -> Iterator[tuple[str, Block]]:
    """Every block of a model, with its path."""
    for path, module in model.named_modules():
        if isinstance(module, Block):
            yield path, module


def fused(kernel: Tensor, bias: Tensor | None, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """The kernel and bias of a convolution followed by a normalization in eval mode."""
    assert norm.running_mean is not None and norm.running_var is not None
    weight, shift = fuse_conv_bn_weights(
        kernel, bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    return weight.detach(), shift.detach()


def norm_like(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """A fresh normalization of the same channels, epsilon and momentum."""
    return nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum)
