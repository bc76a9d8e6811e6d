from __future__ import annotations

import copy
from itertools import combinations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn

from edgemtl.core.errors import UsageError
from edgemtl.kernels import DOConv, Residual, factors, overparameterize, weight_of
from edgemtl.kernels.base import UnsupportedError
from edgemtl.kernels.weight import shape_of

SIDES = ("spatial", "input", "output")
LAYERS = [
    nn.Conv2d(6, 10, 3),
    nn.Conv2d(6, 4, (1, 5), stride=2),
    nn.Conv2d(12, 8, 3, groups=4),
    nn.Conv2d(4, 8, 3, groups=4),
    nn.Conv2d(6, 4, 1, groups=2),
    nn.Linear(11, 4),
]
# [g, o, i, p] of W and the identity plus a residual -> the kernel.
APPLIED = {
    "spatial": "goip,gipq->goiq",
    "input": "goip,gji->gojp",
    "output": "goip,gno->gnip",
}


def sides_of(layer: nn.Module) -> list[str]:
    """Those of more than one row."""
    shape = shape_of(layer)
    sizes = zip(SIDES, (shape.positions, shape.inputs, shape.outputs), strict=True)
    return [side for side, size in sizes if size > 1]


def shaken(layer: nn.Module, method: Residual, tasks: tuple[str, ...]) -> nn.Module:
    """A copy, overparameterized, with every factor off its start."""
    layer = copy.deepcopy(layer).double()
    overparameterize(method, "stem", {tasks: layer})
    with torch.no_grad():
        for factor in factors(layer):
            factor.parameter.add_(0.3 * torch.randn_like(factor.parameter))
    return layer


def with_identity(residual: Tensor) -> Tensor:
    return residual + torch.eye(residual.shape[-1])


@pytest.mark.parametrize(
    ("layer", "sides"),
    [
        (layer, sides)
        for layer in LAYERS
        for count in (1, 2, 3)
        for sides in combinations(sides_of(layer), count)
    ],
    ids=str,
)
def test_the_kernel_is_that_of_the_formula(layer: nn.Conv2d | nn.Linear, sides: tuple[str, ...]) -> None:
    shape = shape_of(layer)
    split = layer.weight.reshape(shape.groups, shape.outputs, shape.inputs, shape.positions)
    trained = shaken(layer, Residual(sides=sides, owned="both"), ("a", "b"))
    weight, *residuals = (factor.parameter for factor in factors(trained))
    expected = weight.reshape(split.shape)
    for index, side in enumerate(sides):
        shared, a, b = (with_identity(residual) for residual in residuals[3 * index : 3 * index + 3])
        matrix = (shared @ a @ b).reshape(shape.groups, -1, *a.shape[-2:])
        matrix = matrix if side == "spatial" else matrix[:, 0]
        expected = torch.einsum(APPLIED[side], expected, matrix)
    torch.testing.assert_close(weight_of(trained), expected.reshape(weight.shape))


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_at_the_start_it_is_exactly_the_weight_and_every_residual_is_zero(
    layer: nn.Conv2d | nn.Linear,
) -> None:
    kernel = Residual(sides=SIDES, owned="both").kernel(layer, ("a", "b"))
    weight, *residuals = kernel.right_inverse(layer.weight.detach())
    assert not any(residual.any() for residual in residuals)
    assert torch.equal(kernel(weight, *residuals), layer.weight)


@pytest.mark.parametrize(
    ("owned", "owners"),
    [("tasks", ("a", "b")), ("shared", (None,)), ("both", (None, "a", "b"))],
)
def test_the_factors_of_every_side_belong_to_whom_the_recipe_says(
    owned: str, owners: tuple[str | None, ...]
) -> None:
    kernel = Residual(sides=("input", "output"), owned=owned).kernel(nn.Conv2d(3, 4, 3), ("a", "b"))
    assert kernel.owners == (None, *owners, *owners)


def test_with_one_shared_spatial_factor_it_is_doconv() -> None:
    layer = nn.Conv2d(4, 6, 3)
    do, residual = DOConv().kernel(layer, ("a",)), Residual(owned="shared").kernel(layer, ("a",))
    given = [layer.weight.detach(), torch.randn(4, 9, 9)]
    assert torch.equal(do(*given), residual(*given))
    assert (do.owners, do.rates) == (residual.owners, residual.rates)


def test_rates_fall_with_the_size_of_the_side() -> None:
    kernel = Residual(sides=SIDES).kernel(nn.Conv2d(72, 36, 3, groups=2), ("a",))
    assert kernel.rates == (1, 1, 9 / 36, 9 / 18)


def test_sides_of_size_one_are_left_out_and_a_layer_without_any_other_is_refused() -> None:
    assert len(Residual(sides=SIDES).kernel(nn.Linear(3, 4), ("a",)).owners) == 3
    with pytest.raises(UnsupportedError, match="side spatial: factors would only scale"):
        Residual().kernel(nn.Linear(3, 4), ("a",))
    with pytest.raises(UnsupportedError, match="side input, output"):
        Residual(sides=("input", "output")).kernel(nn.Conv2d(8, 8, 3, groups=8), ("a",))


def test_a_side_is_named_once() -> None:
    with pytest.raises(UsageError, match=r"\$\.kernel\.sides: expected each side once"):
        Residual(sides=("input", "input"))


def test_a_weight_in_channels_last_composes_alike() -> None:
    layer = shaken(LAYERS[0], Residual(sides=SIDES), ("a",))
    expected = weight_of(layer).clone()
    torch.testing.assert_close(weight_of(layer.to(memory_format=torch.channels_last)), expected)
