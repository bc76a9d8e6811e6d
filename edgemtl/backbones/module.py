"""A user's own network: any chain of modules, or stages written by hand."""

from __future__ import annotations

import importlib
import inspect
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from edgemtl.backbones.base import IMAGE, Backbone, Stage
from edgemtl.core.errors import EdgemtlError, UsageError, first_line, nearest
from edgemtl.modes import evaluating

_PROBE_SIZE = 64


class Module(Backbone, frozen=True, kw_only=True, tag="module"):
    """``factory: package.file:function`` is called with ``options`` and gives an ``nn.Sequential`` (every
    child becomes a stage) or a sequence of ``Stage``. The function must be importable wherever the run is
    used.
    """

    factory: str
    options: dict[str, Any] = {}

    def stages(self) -> tuple[Stage, ...]:
        """Call the factory.

        Raises:
            UsageError: the factory cannot be imported, does not take the options, fails, or gives something
            else.
        """
        factory = self._factory()
        try:
            result = factory(**self.options)
        except EdgemtlError:
            raise
        except Exception as error:  # a function of the user's raises whatever it does
            last = traceback.extract_tb(error.__traceback__)[-1]
            raise UsageError(
                "$.backbone.factory",
                expected=f"{self.factory} to build the network",
                found=f"{type(error).__name__}: {first_line(error)} ({last.filename}:{last.lineno})",
                fix="Mend the function or its `options`; --debug shows the traceback.",
            ) from error
        if isinstance(result, nn.Sequential):
            return chain(**result._modules)  # named_children leaves repeated ones out
        if isinstance(result, Sequence) and all(isinstance(stage, Stage) for stage in result):
            _check(result)
            return tuple(result)
        raise UsageError(
            "$.backbone.factory",
            expected="an nn.Sequential or a sequence of Stage",
            found=type(result).__name__,
            fix="See edgemtl.backbones.chain and edgemtl.backbones.Stage.",
        )

    def _factory(self) -> Callable[..., object]:
        path, _, name = self.factory.partition(":")
        try:
            factory: Callable[..., object] = getattr(importlib.import_module(path), name)
        except Exception as error:  # and so does a file
            raise UsageError(
                "$.backbone.factory",
                expected="package.file:function that can be imported",
                found=f"`{self.factory}` ({first_line(error)})",
                fix="Check the spelling and PYTHONPATH.",
            ) from error
        try:
            inspect.signature(factory).bind(**self.options)
        except TypeError as error:
            raise UsageError(
                "$.backbone.options",
                expected=f"arguments of {self.factory}",
                found=f"{self.options} ({error})",
                fix="Compare them with the function's.",
            ) from error
        return factory


def chain(**modules: nn.Module) -> tuple[Stage, ...]:
    """Stages from modules in order, each reading the one before; names are the keywords.

    Channels and reductions are read off one forward pass of an image of 64x64 zeros.

    Raises:
        UsageError: a module does not take the feature before it, or gives no feature map [B, C, h, w].
    """
    stages: list[Stage] = []
    feature = torch.zeros(1, 3, _PROBE_SIZE, _PROBE_SIZE)
    for name, module in modules.items():
        given = list(feature.shape)
        try:
            with torch.no_grad(), evaluating(module):
                feature = module(feature)
        except Exception as error:  # a module of the user's raises whatever it does
            raise UsageError(
                f"backbone stage {name}",
                expected=f"a module that takes {given}, from an image of {_PROBE_SIZE}x{_PROBE_SIZE}",
                found=first_line(error),
                fix="Mend it; of a network for larger images alone, write the `Stage`s by hand.",
            ) from error
        if not isinstance(feature, torch.Tensor) or feature.ndim != 4:
            raise UsageError(
                f"backbone stage {name}",
                expected="a feature map [B, C, h, w]",
                found=f"shape {list(feature.shape)}"
                if isinstance(feature, torch.Tensor)
                else str(type(feature)),
                fix="Give every stage one tensor in and one out, or write `Stage`s by hand.",
            )
        reads = (stages[-1].name if stages else IMAGE,)
        stages.append(Stage(name, module, reads, feature.shape[1], _PROBE_SIZE // feature.shape[2]))
    _check(stages)
    return tuple(stages)


def _check(stages: Sequence[Stage]) -> None:
    """Stages written by hand may read what nobody wrote, write what is there already, or share weights."""
    known, owners = {IMAGE}, dict[int, str]()
    for stage in stages:
        for tensor in (*stage.module.parameters(), *stage.module.buffers()):
            if owners.setdefault(id(tensor), stage.name) != stage.name:
                raise UsageError(
                    f"backbone stage {stage.name}",
                    expected="weights of its own: every group of tasks has a copy of its stages",
                    found=f"some of {owners[id(tensor)]}",
                    fix="Put both into one stage, or give each a module of its own.",
                )
        _check_inputs(stage)
        for name in stage.reads:
            if name not in known:
                raise UsageError(
                    f"backbone stage {stage.name}",
                    expected="to read the image or what a stage before it writes",
                    found=f"`{name}`",
                    fix=nearest(name, known),
                )
        for name in stage.writes:
            if name in known:
                raise UsageError(
                    f"backbone stage {stage.name}",
                    expected="names that no feature has yet",
                    found=f"`{name}`",
                    fix="Rename the stage.",
                )
            known.add(name)
    if not stages:
        raise UsageError("backbone", expected="at least one stage", found="none", fix="Give it a module.")


def _check_inputs(stage: Stage) -> None:
    """torch.fx, which folds layers, takes an optional tensor of ``forward`` for one that is always there."""
    if isinstance(stage.module, nn.Sequential):
        return
    parameters = list(inspect.signature(stage.module.forward).parameters.values())
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if unread := positional[len(stage.reads) :]:
        raise UsageError(
            f"backbone stage {stage.name}",
            expected=f"a forward of {len(stage.reads)} tensors, as the stage reads",
            found=f"an optional `{unread[0]}`",
            fix="Wrap the module, as nn.Sequential(module) does, so that its forward takes just these.",
        )
