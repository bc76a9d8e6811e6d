from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgemtl.core.errors import RecipeError
from edgemtl.kernels import Factor
from edgemtl.training.optim import (
    SGD,
    Adam,
    Constant,
    Cosine,
    Optimizer,
    OptimizerSpec,
    Poly,
    Schedule,
    ScheduleSpec,
    Step,
)

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


def parameters(lr_scale: float = 1.0, weight_decay: float = 0.0) -> tuple[nn.Parameter, Factor]:
    return nn.Parameter(torch.ones(3)), Factor(nn.Parameter(torch.ones(3)), None, lr_scale, weight_decay)


@pytest.mark.parametrize("member", get_args(OptimizerSpec), **MEMBERS)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_factors_have_a_rate_and_a_decay_of_their_own(member: type[Optimizer], weight_decay: float) -> None:
    plain, factor = parameters(0.3, weight_decay)
    spec = member(lr=0.1, weight_decay=0.5)
    optimizer = spec.build(spec.groups([plain], [factor]))
    found = [(group["params"], group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    assert found == [([plain], 0.1, 0.5), ([factor.parameter], pytest.approx(0.03), weight_decay)]


@pytest.mark.parametrize("member", get_args(OptimizerSpec), **MEMBERS)
def test_only_what_is_no_factor_decays(member: type[Optimizer]) -> None:
    plain, factor = parameters()
    spec = member(lr=0.1, weight_decay=0.5)
    optimizer = spec.build(spec.groups([plain], [factor]))
    plain.grad, factor.parameter.grad = torch.zeros(3), torch.zeros(3)
    optimizer.step()
    assert (plain < 1).all()
    assert torch.equal(factor.parameter, torch.ones(3))


@pytest.mark.parametrize("member", get_args(OptimizerSpec), **MEMBERS)
def test_a_step_goes_down(member: type[Optimizer]) -> None:
    (parameter, _) = parameters()
    spec = member(lr=0.1)
    optimizer = spec.build(spec.groups([parameter], []))
    for _ in range(20):
        optimizer.zero_grad()
        loss = parameter.square().sum()
        loss.backward()
        optimizer.step()
    assert parameter.square().sum() < 1


def test_without_factors_there_is_one_group() -> None:
    plain, _ = parameters()
    assert len(Adam().groups([plain], [])) == 1


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(
        RecipeError, match=r"\$\.training\.optimizer\.nesterov: expected false without momentum"
    ):
        SGD(nesterov=True, momentum=0)


@pytest.mark.parametrize(
    "tree",
    [
        {"type": "adam", "lr": 0},
        {"type": "adam", "lr": float("nan")},
        {"type": "adam", "betas": [0.9, 1.0]},
        {"type": "adamw", "weight_decay": -0.1},
        {"type": "sgd", "momentum": 1.5},
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
    assert spec.build(spec.groups([parameters()[0]], []))
