"""Takes a network or a bundle apart: what each stage of each group, each head and each file costs."""

from __future__ import annotations

import torch
from torch import nn

from edgemtl.backbones.base import IMAGE
from edgemtl.collapse import fold
from edgemtl.core.bundle import Manifest
from edgemtl.core.inspection import Inspection, Part
from edgemtl.model import Features, MultitaskModel, check_size, macs_of, parameters_of


def inspect_model(subject: str, model: MultitaskModel, size: tuple[int, int]) -> Inspection:
    """The parts of a network for one image of (height, width).

    Raises:
        UsageError: it does not take such images.
    """
    check_size(model, size)
    plain, _ = fold(model)
    parts: list[Part] = []
    known: dict[str | None, Features] = {None: {IMAGE: torch.zeros(1, 3, *size)}}
    for segment in plain.tree:
        features = dict(known[segment.parent])
        for stage in (stage for stage in plain.blueprint if stage.name in segment.stages):
            module = plain.segment(segment.name)[stage.name]
            inputs = [features[name] for name in stage.reads]
            with torch.no_grad():
                features.update(stage(module, features))
            shape = tuple(features[stage.name].shape[1:])
            trained = model.segment(segment.name)[stage.name]
            parts.append(
                _part(
                    segment.name, stage.name, segment.group, shape, trained, module, macs_of(module, *inputs)
                )
            )
        known[segment.name] = features
    for task, leaf in plain.leaf.items():
        head, feature = plain.heads[task], known[leaf][plain.blueprint[-1].name]
        with torch.no_grad():
            output = plain.run_head(task, feature, size)
        macs = macs_of(head, feature, size)
        parts.append(
            _part(leaf, f"head_{task}", (task,), tuple(output.shape[1:]), model.heads[task], head, macs)
        )
    return Inspection(
        subject=subject,
        size=size,
        parts=tuple(parts),
        trained=parameters_of(model),
        parameters=parameters_of(plain),
        macs=sum(part.macs for part in parts),
        plain=tuple(model.skipped),
    )


def inspect_bundle(subject: str, manifest: Manifest) -> Inspection:
    """The files of a bundle: those of the split layout, where it has one, but none that joins others."""
    files = manifest.layouts.get("split") or manifest.layouts["merged"]
    parts = tuple(
        Part(
            segment=file.name,
            name=file.path,
            tasks=file.tasks,
            shape=file.outputs[0].shape[1:],
            trained=file.parameters,
            parameters=file.parameters,
            macs=file.macs,
        )
        for file in files
        if not file.joins
    )
    total = sum(part.parameters for part in parts)
    return Inspection(
        subject=subject,
        size=(manifest.input.height, manifest.input.width),
        parts=parts,
        trained=total,
        parameters=total,
        macs=sum(part.macs for part in parts),
    )


def _part(
    segment: str,
    name: str,
    tasks: tuple[str, ...],
    shape: tuple[int, ...],
    trained: nn.Module,
    plain: nn.Module,
    macs: int,
) -> Part:
    return Part(
        segment=segment,
        name=name,
        tasks=tasks,
        shape=shape,
        trained=parameters_of(trained),
        parameters=parameters_of(plain),
        macs=macs,
    )
