"""What every kernel method is: it attaches to a stage's layers something that is trained in place of their
kernels, and that has plain kernels to give whenever they are asked for.

There are two families. A method in weight space composes the kernel from factors (``weight.py``); a block
runs branches with normalizations of their own beside each other (``block.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import ClassVar

import msgspec
from torch import nn

from edgemtl.core.inspection import Skipped
from edgemtl.core.plan import Group


class UnsupportedError(Exception):
    """A method cannot do a layer; the text says why."""


class KernelMethod(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """The base of every method's spec; a member lives in a file of its own and joins ``KernelSpec``.

    ``layers``: patterns of the layers to overparameterize, matched against ``STAGE.path.in.module``.
    ``exact_start``: whether a network computes at the start what it computed before.
    """

    exact_start: ClassVar[bool] = True
    layers: tuple[str, ...] = ("*",)

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
    for path, layer in list(first.named_modules()):
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, nn.Parameter) or weight.ndim < 2:
            continue  # no weight, or a vector such as the scale of a normalization
        name = f"{stage}.{path}" if path else stage
        if not any(fnmatchcase(name, pattern) for pattern in method.layers):
            skipped.append(Skipped(name, f"matches none of {', '.join(method.layers)}"))
            continue
        try:
            method.attach(path, copies)
        except UnsupportedError as error:
            skipped.append(Skipped(name, str(error)))
    return tuple(skipped)
