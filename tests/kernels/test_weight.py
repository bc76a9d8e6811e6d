from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgemtl.kernels import DOConv, Factorized, KernelMethod, Residual, factors, overparameterize
from edgemtl.kernels.base import UnsupportedError
from edgemtl.kernels.weight import Shape, rate_of, shape_of


def forked(method: KernelMethod) -> list[list[int]]:
    """The identities of the factors of two tasks' copies of one convolution."""
    layer = nn.Conv2d(4, 6, 3)
    copies = {(task,): nn.Sequential(layer_like(layer)) for task in "ab"}
    assert overparameterize(method, "stage", copies) == ()
    return [[id(factor.parameter) for factor in factors(copy[0])] for copy in copies.values()]


def layer_like(layer: nn.Conv2d) -> nn.Conv2d:
    copy = nn.Conv2d(4, 6, 3)
    copy.load_state_dict(layer.state_dict())
    return copy


@given(size=st.integers(1, 10_000))
def test_the_rate_falls_with_the_size_of_a_factor_and_never_exceeds_the_kernels(size: int) -> None:
    assert 0 < rate_of(size + 1) <= rate_of(size) <= 1
    assert rate_of(size) * size == pytest.approx(min(size, 9))


def test_a_recipe_chooses_whether_rates_follow_sizes() -> None:
    method = {"sides": ("spatial", "output"), "lr_scale": 0.5}
    found = {}
    for rates in ("size", "equal"):
        layer = nn.Conv2d(3, 36, 3)
        overparameterize(Residual(rates=rates, **method), "stem", {("a",): layer})
        found[rates] = [factor.lr_scale for factor in factors(layer)]
    assert found == {"size": [0.5, 0.5, 0.125], "equal": [0.5, 0.5, 0.5]}


def test_groups_share_what_no_task_owns() -> None:
    for method in (Residual(owned="both"), Factorized()):
        first, second = forked(method)
        assert first[:2] == second[:2]
        assert set(first[2:]).isdisjoint(second[2:])


def test_groups_share_nothing_where_tasks_own_nothing() -> None:
    """Or the fork would be computed twice and never differ."""
    for method in (DOConv(), Residual(owned="shared")):
        first, second = forked(method)
        assert set(first).isdisjoint(second)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(6, 10, (3, 5), stride=2), Shape(1, 10, 6, 3, 5)),
        (nn.Conv2d(12, 8, 3, groups=4), Shape(4, 2, 3, 3, 3)),
        (nn.Linear(7, 2), Shape(1, 2, 7, 1, 1)),
    ],
    ids=str,
)
def test_a_shape_is_that_of_one_convolution_group(layer: nn.Conv2d | nn.Linear, shape: Shape) -> None:
    assert shape_of(layer) == shape
    assert shape.groups * shape.outputs * shape.inputs * shape.positions == layer.weight.numel()


@pytest.mark.parametrize(
    "layer", [nn.ConvTranspose2d(3, 3, 2), nn.Conv1d(3, 3, 2), nn.Embedding(3, 3)], ids=str
)
def test_other_layers_are_refused_by_name(layer: nn.Module) -> None:
    with pytest.raises(UnsupportedError, match=type(layer).__name__):
        shape_of(layer)
