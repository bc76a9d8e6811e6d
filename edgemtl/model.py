"""MultitaskModel: walks the sharing plan segment by segment, then the heads."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edgemtl.backbones import Stage
from edgemtl.backbones.base import IMAGE
from edgemtl.core.errors import EdgemtlError, UsageError, first_line, nearest
from edgemtl.core.inspection import Skipped
from edgemtl.core.plan import Segment, SharingPlan
from edgemtl.kernels import KernelMethod, Plain, layers_of, overparameterize
from edgemtl.modes import evaluating
from edgemtl.tasks.base import Task

Features = dict[str, Tensor]
# Attributes of the dictionaries that hold stages and heads, and arguments of savez, which writes outputs.
_TAKEN = {*dir(nn.ModuleDict), "file", "allow_pickle"}


class MultitaskModel(nn.Module):
    """A backbone shared by tasks as the plan says, and a head for each task.

    ``segments.SEGMENT.STAGE`` is a group's copy of a stage, ``heads.TASK`` a head. Copies start equal. The
    stages given stay untouched as the ``blueprint``, from which collapse builds the plain network.

    Raises:
        UsageError: the plan is not one of these stages and tasks, or the kernel method does no layer.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        tasks: Mapping[str, Task],
        plan: SharingPlan | None = None,
        kernel: KernelMethod | None = None,
    ) -> None:
        super().__init__()
        names = tuple(stage.name for stage in stages)
        self.plan = plan or SharingPlan.shared(tuple(tasks), names)
        if self.plan.stages != names or self.plan.tasks != tuple(tasks):
            raise UsageError(
                "plan",
                expected=f"stages {', '.join(names)} and tasks {', '.join(tasks)}",
                found=f"stages {', '.join(self.plan.stages)} and tasks {', '.join(self.plan.tasks)}",
                fix="Make the plan from the names of this backbone and these tasks.",
            )
        for name in (*names, *tasks):
            if name in _TAKEN or "." in name:
                raise UsageError(
                    f"stage or task `{name}`",
                    expected="a name without dots that torch modules and numpy.savez do not use themselves",
                    found=f"`{name}`",
                    fix="Rename it.",
                )
        self.blueprint = tuple(stages)
        self.tasks = dict(tasks)
        self.tree = self.plan.segments()
        self.leaf = {task: self.plan.segment_of(task).name for task in tasks}
        self.segments = nn.ModuleDict({segment.name: nn.ModuleDict() for segment in self.tree})
        owner = {(stage, segment.group): segment.name for segment in self.tree for stage in segment.stages}
        method, self.skipped = kernel or Plain(), list[Skipped]()
        for stage in stages:
            copies = {group: copy.deepcopy(stage.module) for group in self.plan.groups(stage.name)}
            self.skipped += overparameterize(method, stage.name, copies)
            for group, module in copies.items():
                self.segment(owner[stage.name, group])[stage.name] = module
        layers = [name for stage in stages for name, _ in layers_of(stage.name, stage.module)]
        method.check_reach(layers, self.skipped)
        self.heads = nn.ModuleDict({name: task.head(stages[-1].channels) for name, task in tasks.items()})

    def forward(self, image: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """[B, 3, H, W], RGB in 0..1 -> the prediction of each task (of ``tasks`` alone, if given).

        A stage runs once for each group that has one of the tasks in it.

        Raises:
            UsageError: there is no such task.
        """
        return self.run(image, tasks)[1]

    def run(self, image: Tensor, tasks: Sequence[str] | None = None) -> tuple[Features, Features]:
        """As ``forward``: what enters the head of each task, and its prediction."""
        features, size = self.features(image, tasks), (image.shape[-2], image.shape[-1])
        return features, {task: self.run_head(task, feature, size) for task, feature in features.items()}

    def features(self, image: Tensor, tasks: Sequence[str] | None = None) -> Features:
        """As ``forward``, but without the heads: what enters each, [B, channels, h, w]."""
        wanted = self.plan.tasks if tasks is None else tuple(tasks)
        for task in wanted:
            if task not in self.tasks:
                raise UsageError(
                    "tasks", expected="a task of this model", found=task, fix=nearest(task, self.tasks)
                )
        known: dict[str | None, Features] = {None: {IMAGE: image}}
        for segment in self.tree:
            if not set(wanted).isdisjoint(segment.group):
                known[segment.name] = self.run_segment(segment, known[segment.parent])
        return {task: known[self.leaf[task]][self.blueprint[-1].name] for task in wanted}

    def run_segment(self, segment: Segment, features: Features) -> Features:
        """The features known before a segment -> those known after it."""
        modules = self.segment(segment.name)
        known = dict(features)
        for stage in self.blueprint:
            if stage.name in modules:
                known.update(stage(modules[stage.name], known))
        return known

    def run_head(self, task: str, feature: Tensor, size: tuple[int, int]) -> Tensor:
        """The last feature on a task's path and (height, width) of the image -> its prediction."""
        prediction: Tensor = self.heads[task](feature, size)
        return prediction

    def segment(self, name: str) -> nn.ModuleDict:
        """The stages of a segment, by name."""
        return cast(nn.ModuleDict, self.segments[name])


def check_size(model: MultitaskModel, size: tuple[int, int]) -> None:
    """Run the network on a blank image of (height, width).

    Raises:
        UsageError: it does not take such images; as a rule, more stages halve them than their size allows. Or
            a stage gives other channels than it says, or a branch or a head changes in place what others
            read.
    """
    try:
        with torch.no_grad(), evaluating(model):
            _walk(model, torch.zeros(1, 3, *size))
    except EdgemtlError:
        raise
    except Exception as error:  # a module of the user's, or timm's, raises whatever it does
        height, width = size
        raise UsageError(
            "$.backbone",
            expected=f"a network that takes images of {height}x{width}",
            found=first_line(error),
            fix="Use images of another size, larger ones as a rule, or another backbone.",
        ) from error


def _walk(model: MultitaskModel, image: Tensor) -> None:
    """Run every segment and head, watching what others read too."""
    known: dict[str | None, Features] = {None: {IMAGE: image}}
    parents = [segment.parent for segment in model.tree]
    for segment in model.tree:
        above = known[segment.parent]
        with _untouched(above if parents.count(segment.parent) > 1 else {}, f"stage {segment.stages[0]}"):
            known[segment.name] = model.run_segment(segment, above)
        for stage in model.blueprint:
            if stage.name in segment.stages:
                _check_channels(stage, known[segment.name][stage.name])
    leaves = list(model.leaf.values())
    for task, leaf in model.leaf.items():
        with _untouched(known[leaf] if leaves.count(leaf) > 1 else {}, f"the head of {task}"):
            model.run_head(task, known[leaf][model.blueprint[-1].name], (image.shape[-2], image.shape[-1]))


def _check_channels(stage: Stage, feature: Tensor) -> None:
    if feature.ndim != 4 or feature.shape[1] != stage.channels:
        raise UsageError(
            f"backbone stage {stage.name}",
            expected=f"a feature map of {stage.channels} channels, as it says",
            found=f"shape {list(feature.shape)}",
            fix="Let its `channels` say what its module gives.",
        )


@contextmanager
def _untouched(features: Features, reader: str) -> Iterator[None]:
    """Refuse a ``reader`` that changes ``features`` in place: others of the fork would read the change."""
    versions = {name: feature._version for name, feature in features.items()}
    yield
    if changed := [name for name, feature in features.items() if feature._version != versions[name]]:
        raise UsageError(
            reader,
            expected="one that leaves what it reads as it is, for the network forks there",
            found=f"it changes {changed[0]} in place",
            fix="Set inplace=False in it, or fork at another stage.",
        )


def parameters_of(model: nn.Module) -> int:
    """The number of parameters, each counted once however many modules share it."""
    return sum(parameter.numel() for parameter in model.parameters())


def macs_of(model: nn.Module, *inputs: object) -> int:
    """Multiply-accumulate operations of one forward pass (convolutions and matrix products)."""
    with torch.no_grad(), evaluating(model), FlopCounterMode(display=False) as counter:
        model(*inputs)
    return int(counter.get_total_flops()) // 2  # the counter takes a multiply and an add for two operations
