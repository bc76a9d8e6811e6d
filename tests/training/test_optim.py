from __future__ import annotations

import copy
import math
from typing import Any, get_args

import msgspec
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgemtl.training.muon import Orthogonalizing
from edgemtl.training.optim import (
    SGD,
    Adam,
    AdamW,
    Constant,
    Cosine,
    Muon,
    Optimizer,
    OptimizerSpec,
    Poly,
    Schedule,
    ScheduleSpec,
    Step,
    Together,
    Trained,
)
from edgemtl.training.spec import Training

STEPS, EPOCH_STEPS = 100, 10
MEMBERS = {"ids": lambda member: member.__name__}


def rates(schedule: Schedule) -> list[float]:
    return [schedule.factor(step, STEPS, EPOCH_STEPS) for step in range(STEPS)]


@pytest.mark.parametrize("member", get_args(ScheduleSpec), **MEMBERS)
@given(steps=st.integers(1, 500), epoch_steps=st.integers(1, 50), warmup_steps=st.integers(0, 100))
def test_a_rate_is_a_share_of_the_highest(
    member: type[Schedule], steps: int, epoch_steps: int, warmup_steps: int
) -> None:
    schedule = member(warmup_steps=warmup_steps)
    assert all(0 < schedule.factor(step, steps, epoch_steps) <= 1 for step in range(steps))


@pytest.mark.parametrize("member", get_args(ScheduleSpec), **MEMBERS)
def test_without_warm_up_it_starts_at_the_highest_and_never_rises(member: type[Schedule]) -> None:
    found = rates(member())
    assert found[0] == 1
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("member", get_args(ScheduleSpec), **MEMBERS)
def test_the_warm_up_rises_linearly_to_the_schedule(member: type[Schedule]) -> None:
    warm, plain = rates(member(warmup_steps=4)), rates(member())
    shares = [a / b for a, b in zip(warm, plain, strict=True)]
    assert shares == pytest.approx([0.2, 0.4, 0.6, 0.8] + [1.0] * (STEPS - 4))


def test_constant_stays() -> None:
    assert set(rates(Constant())) == {1.0}


def test_step_falls_at_the_ends_of_its_epochs() -> None:
    found = rates(Step(epochs=3, gamma=0.1))
    assert found == pytest.approx([1.0] * 30 + [0.1] * 30 + [0.01] * 30 + [0.001] * 10)


def test_cosine_is_half_way_in_the_middle_and_ends_at_its_final_share() -> None:
    schedule = Cosine(final=0.2)
    assert schedule.factor(50, STEPS, EPOCH_STEPS) == pytest.approx(0.6)
    assert schedule.factor(STEPS, STEPS, EPOCH_STEPS) == pytest.approx(0.2)


def test_poly_is_a_power_of_what_is_left() -> None:
    assert Poly(power=2.0).factor(75, STEPS, EPOCH_STEPS) == pytest.approx(0.25**2)


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.ones(3))


@pytest.mark.parametrize("member", get_args(OptimizerSpec), **MEMBERS)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_parameter_may_have_a_rate_and_a_decay_of_its_own(
    member: type[Optimizer], weight_decay: float
) -> None:
    plain, factor = parameter(), parameter()
    spec = member(lr=0.1, weight_decay=0.5)
    optimizer = spec.build(spec.groups([Trained(plain), Trained(factor, 0.3, weight_decay)]))
    assert settings(optimizer) == [
        ([plain], 0.1, 0.5),
        ([factor], pytest.approx(0.03), weight_decay),
    ]


@pytest.mark.parametrize("member", get_args(OptimizerSpec), **MEMBERS)
def test_what_has_a_decay_of_0_does_not_decay(member: type[Optimizer]) -> None:
    plain, factor = parameter(), parameter()
    spec = member(lr=0.1, weight_decay=0.5)
    optimizer = spec.build(spec.groups([Trained(plain), Trained(factor, weight_decay=0.0)]))
    plain.grad, factor.grad = torch.zeros(3), torch.zeros(3)
    optimizer.step()
    assert (plain < 1).all()
    assert torch.equal(factor, torch.ones(3))


@pytest.mark.parametrize("member", get_args(OptimizerSpec), **MEMBERS)
def test_a_step_goes_down(member: type[Optimizer]) -> None:
    weight, spec = parameter(), member(lr=0.1)
    descend([weight], spec.build(spec.groups([Trained(weight)])), 20)
    assert weight.square().sum() < 1


def test_what_is_trained_alike_is_one_group() -> None:
    assert len(Adam().groups([Trained(parameter()), Trained(parameter(), weight_decay=0.0)])) == 1


def test_nesterov_needs_momentum() -> None:
    tree = {"factor_optimizer": {"type": "sgd", "nesterov": True, "momentum": 0}}
    with pytest.raises(msgspec.ValidationError, match=r"`momentum` above 0.*\$\.factor_optimizer"):
        msgspec.convert(tree, Training)


@pytest.mark.parametrize(
    "tree",
    [
        {"type": "adam", "lr": 0},
        {"type": "adam", "lr": float("nan")},
        {"type": "adam", "betas": [0.9, 1.0]},
        {"type": "adamw", "weight_decay": -0.1},
        {"type": "sgd", "momentum": 1.5},
        {"type": "muon", "momentum": 1.0},
    ],
    ids=str,
)
def test_impossible_numbers_are_refused(tree: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(tree, OptimizerSpec)


@pytest.mark.parametrize("member", get_args(OptimizerSpec), **MEMBERS)
def test_what_the_spec_allows_torch_takes(member: type[Optimizer]) -> None:
    extremes = {"betas": (0.0, 0.999999), "momentum": 1.0, "nesterov": True}
    options = {name: value for name, value in extremes.items() if name in member.__struct_fields__}
    spec = member(lr=1e-12, weight_decay=0, **options)
    assert spec.build(spec.groups([Trained(parameter())]))


def test_muon_takes_matrices_and_convolutions_and_leaves_the_rest_to_adamw() -> None:
    layer, norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
    diagonal, stack = nn.Parameter(torch.ones(2, 1, 5)), nn.Parameter(torch.ones(2, 4, 5))
    spec = Muon(lr=0.1, weight_decay=0.2)
    plain = [Trained(p) for p in (*layer.parameters(), *norm.parameters())]
    optimizer = spec.build(spec.groups([*plain, *(Trained(f, 0.5, 0.0) for f in (diagonal, stack))]))
    orthogonalizing, adamw = optimizer.parts
    assert isinstance(orthogonalizing, Orthogonalizing)
    assert isinstance(adamw, torch.optim.AdamW)
    assert settings(orthogonalizing) == [([layer.weight], 0.1, 0.2), ([stack], 0.05, 0.0)]
    rest = [layer.bias, norm.weight, norm.bias]
    assert settings(adamw) == [(rest, 0.1, 0.2), ([diagonal], 0.05, 0.0)]


def settings(optimizer: torch.optim.Optimizer) -> list[tuple[list[nn.Parameter], float, float]]:
    return [(group["params"], group["lr"], group["weight_decay"]) for group in optimizer.param_groups]


def pair() -> tuple[list[nn.Parameter], Together]:
    parameters = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))]
    first, second = (
        spec.build(spec.groups([Trained(p)])) for spec, p in zip((SGD(), Adam()), parameters, strict=True)
    )
    return parameters, Together([first, second])


def descend(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        sum(parameter.square().sum() for parameter in parameters).backward()
        optimizer.step()


def test_two_optimizers_step_as_each_would_alone() -> None:
    parameters, both = pair()
    descend(parameters, both, 5)
    for spec, found in zip((SGD(), Adam()), parameters, strict=True):
        alone = nn.Parameter(torch.ones(3))
        descend([alone], spec.build(spec.groups([Trained(alone)])), 5)
        assert torch.equal(found, alone)


def test_two_optimizers_resume_from_their_state_and_still_obey_their_groups() -> None:
    parameters, optimizer = pair()
    descend(parameters, optimizer, 3)
    again, resumed = pair()
    with torch.no_grad():
        for parameter, value in zip(again, parameters, strict=True):
            parameter.copy_(value)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for either in (optimizer, resumed):
        for group in either.param_groups:
            group["lr"] = 0.5
    descend(parameters, optimizer, 3)
    descend(again, resumed, 3)
    assert all(torch.equal(a, b) for a, b in zip(parameters, again, strict=True))
    assert all(part.param_groups[0]["lr"] == 0.5 for part in resumed.parts)


def test_the_state_of_other_optimizers_is_refused() -> None:
    _, optimizer = pair()
    single = optimizer.parts[0].state_dict()
    for other in ({"parts": [single]}, single):
        with pytest.raises(ValueError, match="argument"):
            optimizer.load_state_dict(other)


@pytest.mark.parametrize("inf", [False, True])
def test_a_scaler_unscales_and_skips_two_optimizers_as_one(inf: bool) -> None:
    parameters, optimizer = pair()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scaler.scale(sum(parameter.square().sum() for parameter in parameters)).backward()
    if inf:
        parameters[1].grad[0] = torch.inf
    scaler.unscale_(optimizer)
    assert torch.equal(parameters[0].grad, torch.full((3,), 2.0))
    scaler.step(optimizer)
    scaler.update()
    assert all(bool((parameter == 1).all()) == inf for parameter in parameters)


@pytest.mark.parametrize("spec", [Adam(), AdamW(), SGD(), SGD(nesterov=True), Muon()], ids=str)
def test_a_first_step_that_overflows_is_as_if_it_had_not_been(
    spec: Optimizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scale of fp16 begins high. Memory that nobody initialized is NaN here."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    try:
        weights = []
        for gradients in ([math.inf, 1.0, 1.0], [1.0, 1.0]):
            weight = nn.Parameter(torch.ones(2, 3))
            optimizer, scaler = (
                spec.build([{"params": [weight], "lr": 0.1, "weight_decay": 0.0}]),
                torch.amp.GradScaler("cpu"),
            )
            for gradient in gradients:
                scaler.scale(weight.sum()).backward()
                weight.grad.mul_(gradient)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
            weights.append(weight.detach())
        torch.testing.assert_close(*weights)
    finally:
        torch.use_deterministic_algorithms(False)
