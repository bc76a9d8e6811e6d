"""What every kernel method is: it attaches to a stage's layers something that is trained in place of their
kernels, and that has plain kernels to give whenever they are asked for.

There are two families. A method in weight space composes the kernel from factors (``weight.py``); a block
runs branches with normalizations of their own beside each other (``block.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated

import msgspec
import torch
from torch import nn

from edgemtl.core.errors import UsageError
from edgemtl.core.inspection import Skipped
from edgemtl.core.plan import Group


class UnsupportedError(Exception):
    """A method cannot do a layer; the text says why."""


class KernelMethod(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """The base of every method's spec; a member lives in a file of its own and joins ``KernelSpec``.

    ``layers``: patterns of the layers to overparameterize, matched against ``STAGE.path.in.module``.
    """

    layers: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = ("*",)

    def wants(self, layer: str) -> bool:
        """Whether a layer, ``STAGE.path.in.module``, is to be overparameterized."""
        return any(fnmatchcase(layer, pattern) for pattern in self.layers)

    def check_reach(self, layers: Sequence[str], skipped: Sequence[Skipped]) -> None:
        """Refuse a method that leaves every layer of a network plain, and a pattern that no layer matches.

        Raises:
            UsageError: as above: what is called by a method's name must not train plain.
        """
        for pattern in self.layers if layers else ():
            if not any(fnmatchcase(layer, pattern) for layer in layers):
                raise UsageError(
                    "$.kernel.layers",
                    expected="patterns of this network's layers",
                    found=f"`{pattern}`, which matches none",
                    fix=f"The first are {', '.join(layers[:3])}; `edgemtl inspect` lists all.",
                )
        plain = [left for left in skipped if self.wants(left.layer)]
        if plain and len(plain) == sum(map(self.wants, layers)):
            raise UsageError(
                "$.kernel",
                expected="a method that does a layer of this network",
                found=f"none: {plain[0].layer}: {plain[0].reason}",
                fix="Choose another method, or `kernel: plain`.",
            )

    def attach(self, path: str, copies: Mapping[Group, nn.Module]) -> None:
        """Overparameterize, in place, the layer at ``path`` in a stage's copies, one for each group of tasks.

        Raises:
            UnsupportedError: this method cannot do this layer. The copies are as they were.
        """
        raise NotImplementedError


def overparameterize(
    method: KernelMethod, stage: str, copies: Mapping[Group, nn.Module]
) -> tuple[Skipped, ...]:
    """Let a method do the layers of a stage's copies, in place, one copy for each group of tasks.

    The copies must be equal when they come, so that what groups share fits them all. Returns the layers that
    were left plain, with the reason.
    """
    first = next(iter(copies.values()))
    skipped = []
    # What is built later, as heads are, is drawn alike with every method, whatever this one draws.
    with torch.random.fork_rng(devices=[]):
        for name, path in list(layers_of(stage, first)):
            if not method.wants(name):
                skipped.append(Skipped(name, f"matches none of {', '.join(method.layers)}"))
                continue
            try:
                _check_layer(first, path)
                method.attach(path, copies)
            except UnsupportedError as error:
                skipped.append(Skipped(name, str(error)))
    return tuple(skipped)


def _check_layer(stage: nn.Module, path: str) -> None:
    """Refuse a layer whose weight is not its own, whatever the method."""
    layer = stage.get_submodule(path)
    weight = layer._parameters.get("weight")
    if weight is None:
        raise UnsupportedError("its weight is computed already, as spectral_norm does")
    check_alone(stage, path)
    if sum(other._parameters.get("weight") is weight for other in stage.modules()) > 1:
        raise UnsupportedError("another layer has the same weight")


def check_alone(stage: nn.Module, path: str) -> None:
    """Refuse a layer of several names in a stage: replaced under one, it would still run under others.

    Raises:
        UnsupportedError: as above.
    """
    layer = stage.get_submodule(path)
    names = [name for name, other in stage.named_modules(remove_duplicate=False) if other is layer]
    if len(names) > 1:
        raise UnsupportedError(f"it stands under several names, {' and '.join(names)}")


def layers_of(stage: str, module: nn.Module) -> Iterator[tuple[str, str]]:
    """The layers of a stage that have a kernel: their names as patterns see them, and their paths in it."""
    for path, layer in module.named_modules():
        weight = getattr(layer, "weight", None)
        if isinstance(weight, torch.Tensor) and weight.ndim > 1:  # one of a normalization is a vector
            yield (f"{stage}.{path}" if path else stage), path
