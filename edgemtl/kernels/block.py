"""Blocks: a convolution and its batch normalization are trained as branches, each with a normalization of its
own, whose sum is again one convolution.

Statistics of a batch stand between the branches and the sum, so while training this is no kernel, and each
branch runs. In eval mode every branch is a convolution with a bias, and ``fuse`` adds them up.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from edgemtl.core.plan import Group
from edgemtl.folding import UntraceableError, followed_by_norm
from edgemtl.kernels.base import KernelMethod, UnsupportedError, check_alone


@dataclass(frozen=True)
class Place:
    """Where in a stage a block stands: the paths of the convolution and the normalization that it replaces,
    whether that convolution has a bias, and the normalization's epsilon.
    """

    conv: str
    norm: str
    bias: bool
    eps: float


class Branch(nn.Module, ABC):
    """One of the paths [B, ci, h, w] -> [B, co, h', w'] through a block, and linear in eval mode."""

    @abstractmethod
    def fuse(self) -> tuple[Tensor, Tensor]:
        """The kernel, of the convolution's shape, and the bias [co] that compute the same in eval mode."""


class Window(Branch):
    """A convolution over the taps in the middle of the kernel, or over all of them, and a normalization.

    ``margin``: the taps left out on each side, (height, width). ``crop``: the pixels left out on each side.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        norm: nn.BatchNorm2d,
        margin: tuple[int, int] = (0, 0),
        crop: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__()
        self.conv, self.norm = conv, norm
        self.margin, self.crop = around(margin), around((-crop[0], -crop[1]))

    def forward(self, x: Tensor) -> Tensor:
        """[B, ci, h, w] -> [B, co, h', w']."""
        normal: Tensor = self.norm(self.conv(F.pad(x, self.crop) if any(self.crop) else x))
        return normal

    def fuse(self) -> tuple[Tensor, Tensor]:
        """The taps left out are zero."""
        kernel, bias = fused(self.conv.weight, self.conv.bias, self.norm)
        return F.pad(kernel, self.margin), bias


class Shortcut(Branch):
    """The input itself, normalized: a convolution whose tap in the middle is the identity."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm_like(norm)
        self.shape, self.groups = tuple(conv.weight.shape), conv.groups

    def forward(self, x: Tensor) -> Tensor:
        """[B, c, h, w] -> the same shape."""
        normal: Tensor = self.norm(x)
        return normal

    def fuse(self) -> tuple[Tensor, Tensor]:
        """The identity within each group of channels, scaled."""
        identity = nn.init.dirac_(self.norm.weight.new_empty(self.shape), self.groups)
        return fused(identity, None, self.norm)


class Block(nn.Module):
    """Branches that are added up; stands where the convolution stood."""

    def __init__(self, branches: Sequence[Branch], place: Place) -> None:
        super().__init__()
        self.branches, self.place = nn.ModuleList(branches), place

    def forward(self, x: Tensor) -> Tensor:
        """[B, ci, h, w] -> [B, co, h', w']."""
        first, *others = self.branches
        total: Tensor = first(x)
        for branch in others:
            total = total + branch(x)
        return total

    def plain_state(self) -> dict[str, Tensor]:
        """The state of the convolution and the normalization in its place that compute the same in eval mode;
        names as in the stage.
        """
        kernels, biases = zip(*(branch.fuse() for branch in cast("list[Branch]", self.branches)), strict=True)
        kernel, bias = torch.stack(kernels).sum(0), torch.stack(biases).sum(0)
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

    def beside(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> list[Branch]:
        """The branches to run beside these two, which stay a branch as they are; the kernel's sizes are odd.

        Raises:
            UnsupportedError: this method cannot do this convolution.
        """
        raise NotImplementedError

    def attach(self, path: str, copies: Mapping[Group, nn.Module]) -> None:
        """Put a block in every copy; groups share nothing. See ``KernelMethod.attach``."""
        first = next(iter(copies.values()))
        conv = _conv_at(first, path)
        follower, norm = _norm_after(first, path)
        others = self.beside(conv, norm)
        if not others:
            raise UnsupportedError("no other branch fits beside it")
        place = Place(path, follower, conv.bias is not None, norm.eps)
        block = Block([Window(conv, norm), *others], place).to(conv.weight)
        for stage in copies.values():
            stage.set_submodule(path, copy.deepcopy(block))
            stage.set_submodule(follower, nn.Identity())


def _conv_at(stage: nn.Module, path: str) -> nn.Conv2d:
    conv = stage.get_submodule(path)
    if not isinstance(conv, nn.Conv2d):
        raise UnsupportedError(f"{type(conv).__name__} is no Conv2d")
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        raise UnsupportedError("branches of other sizes need numbers as padding, and zeros to pad with")
    if not conv.weight.requires_grad:
        raise UnsupportedError("it is frozen, and branches beside it would not be")
    if not all(size % 2 for size in conv.kernel_size):
        raise UnsupportedError("a kernel of even size has no middle for smaller ones to stand in")
    return conv


def _norm_after(stage: nn.Module, path: str) -> tuple[str, nn.BatchNorm2d]:
    try:
        follower = followed_by_norm(stage, opaque=Block).get(path)
    except UntraceableError as error:
        raise UnsupportedError(str(error)) from error
    if follower is None:
        raise UnsupportedError("its result is not read by one batch normalization alone")
    check_alone(stage, follower)
    norm = stage.get_submodule(follower)
    if type(norm) is not nn.BatchNorm2d:
        raise UnsupportedError(f"{type(norm).__name__} after it may do more than normalize")
    if not (norm.affine and norm.track_running_stats):
        raise UnsupportedError("the normalization after it has no scale or no running statistics")
    return follower, norm


def window(conv: nn.Conv2d, norm: nn.BatchNorm2d, height: int, width: int) -> Window:
    """A fresh branch over the ``height`` x ``width`` taps in the middle of the kernel.

    It sees what these taps see: its padding is smaller by the taps left out, and where none would be left,
    pixels at the border are left out.
    """
    margin = ((conv.kernel_size[0] - height) // 2, (conv.kernel_size[1] - width) // 2)
    padding = [
        pad - step * taps for pad, step, taps in zip(pair(conv.padding), conv.dilation, margin, strict=True)
    ]
    fresh = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        (height, width),
        pair(conv.stride),
        (max(padding[0], 0), max(padding[1], 0)),
        pair(conv.dilation),
        conv.groups,
        bias=False,
    )
    crop = (max(-padding[0], 0), max(-padding[1], 0))
    return Window(fresh, norm_like(norm), margin, crop)


def pointwise(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> list[Branch]:
    """A fresh branch over the tap in the middle, unless the kernel is that tap."""
    return [] if conv.kernel_size == (1, 1) else [window(conv, norm, 1, 1)]


def shortcut(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> list[Branch]:
    """The input as a branch, where the result has its shape."""
    reach = tuple(step * (size - 1) // 2 for step, size in zip(conv.dilation, conv.kernel_size, strict=True))
    same = conv.in_channels == conv.out_channels and conv.stride == (1, 1) and conv.padding == reach
    return [Shortcut(conv, norm)] if same else []


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


def norm_like(norm: nn.BatchNorm2d, channels: int | None = None) -> nn.BatchNorm2d:
    """A fresh normalization of the same epsilon and momentum, and of the same channels unless given."""
    return nn.BatchNorm2d(channels or norm.num_features, norm.eps, norm.momentum)


def around(sizes: tuple[int, int]) -> tuple[int, int, int, int]:
    """(height, width) on both sides, as F.pad takes it."""
    height, width = sizes
    return (width, width, height, height)


def pair(sizes: str | tuple[int, ...]) -> tuple[int, int]:
    """(height, width) of a convolution's stride, padding or dilation, which torch types more widely."""
    assert not isinstance(sizes, str)
    height, width = sizes
    return height, width
