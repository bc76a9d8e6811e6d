"""Collapse: a trained MultitaskModel becomes plain convolutions, with a certificate that it computes the
same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from edgemtl.core.inspection import Agreement, Certificate, Skipped
from edgemtl.folding import fold_layers
from edgemtl.kernels import composed_state
from edgemtl.model import MultitaskModel, macs_of, parameters_of
from edgemtl.modes import evaluating


@dataclass(frozen=True)
class CollapsedModel:
    """Plain torch modules in eval mode, with the certificate that came with them."""

    model: MultitaskModel
    certificate: Certificate


def collapse(model: MultitaskModel, size: tuple[int, int], images: Tensor | None = None) -> CollapsedModel:
    """Merge every kernel's factors, then fold batch normalization. The model given is left as it was.

    Args:
        model: the trained network, on the CPU.
        size: (height, width) of the images that it will see.
        images: real images [B, 3, height, width] to compare on besides two random ones.

    Raises:
        GateError: the collapsed network does not compute the same.
    """
    probes = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    probes = probes if images is None else torch.cat([probes, images])
    with _borrowed(model):
        plain, unfolded = fold(model.double())
        exact, folded = _predict(model, probes.double()), _predict(plain, probes.double())
        rounded, found = _predict(model.float(), probes), _predict(plain.float(), probes)
        macs = macs_of(model, probes[:1]), macs_of(plain, probes[:1])
    certificate = Certificate(
        fp64=_agreements(exact, folded),
        fp32=_agreements(rounded, found),
        noise={task: agreement.relative for task, agreement in _agreements(exact, rounded).items()},
        size=size,
        parameters=(parameters_of(model), parameters_of(plain)),
        macs=macs,
        unfolded=unfolded,
    )
    certificate.check()
    return CollapsedModel(plain, certificate)


def fold(model: MultitaskModel) -> tuple[MultitaskModel, tuple[Skipped, ...]]:
    """A plain network in eval mode with the same kernels, and what follows them linearly folded into them.

    Also gives the normalizations that could not be folded, with the reason. What comes out depends, but for
    the values, only on the blueprint, tasks and plan, so that saved weights load into it again.
    """
    plain = MultitaskModel(model.blueprint, model.tasks, model.plan)
    state = composed_state(model)
    plain.to(_dtype(state)).load_state_dict(state)
    plain.eval().requires_grad_(False)
    unfolded: list[Skipped] = []
    for segment in plain.tree:
        modules = plain.segment(segment.name)
        for stage in segment.stages:
            modules[stage], left = fold_layers(modules[stage])
            unfolded += (Skipped(f"{segment.name}.{stage}.{kept.layer}", kept.reason) for kept in left)
    for head in plain.heads.children():
        head.convs, _ = fold_layers(head.get_submodule("convs"))
    return plain, tuple(unfolded)


@contextmanager
def _borrowed(model: MultitaskModel) -> Iterator[None]:
    """Within the block a model is in eval mode and may change its precision; then it is as it was."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        with evaluating(model):
            yield
    finally:
        model.to(_dtype(state)).load_state_dict(state)


def _dtype(state: Mapping[str, Tensor]) -> torch.dtype:
    return next(value.dtype for value in state.values() if value.is_floating_point())


def _predict(model: MultitaskModel, images: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        predictions: dict[str, Tensor] = model(images)
    return predictions


def _agreements(expected: dict[str, Tensor], found: dict[str, Tensor]) -> dict[str, Agreement]:
    table = {}
    for task, value in expected.items():
        difference = (value - found[task]).abs().max().item()
        table[task] = Agreement(difference, difference / value.abs().max().clamp_min(1e-30).item())
    return table
