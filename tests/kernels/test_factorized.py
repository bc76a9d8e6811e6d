from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn.utils import parametrize

from edgemtl.kernels import Factorized, factors
from edgemtl.kernels.base import UnsupportedError

LAYERS = [
    nn.Conv2d(6, 10, 3),
    nn.Conv2d(6, 10, (1, 5), stride=2, padding=1),
    nn.Conv2d(12, 8, 3, groups=4),
    nn.Conv2d(8, 8, 3, groups=8),
    nn.Conv2d(5, 7, 1),
    nn.Linear(11, 4),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("combine", ["product", "mean", "sum"])
@pytest.mark.parametrize("middle", ["diagonal", "full"])
def test_the_factors_compose_to_the_weight_that_they_came_from(
    layer: nn.Conv2d | nn.Linear, combine: str, middle: str
) -> None:
    kernel = Factorized(combine=combine, middle=middle).kernel(layer, ("a", "b", "c"))
    weight = layer.weight.detach()
    torch.testing.assert_close(kernel(*kernel.right_inverse(weight)), weight, rtol=1e-5, atol=2e-6)
    exact = weight.double()
    torch.testing.assert_close(kernel(*kernel.right_inverse(exact)), exact, rtol=0, atol=3e-15)


@pytest.mark.parametrize("layer", LAYERS[:4], ids=str)
def test_the_factors_are_those_of_the_spatial_svd(layer: nn.Conv2d) -> None:
    u, v, m = Factorized().kernel(layer, ("a",)).right_inverse(layer.weight.detach().double())
    groups, (out_channels, in_channels, height, width) = layer.groups, layer.weight.shape
    rank = min(in_channels * height, out_channels // groups * width)
    assert u.shape == (groups, in_channels * height, rank)
    assert m.shape == (groups, rank)
    assert v.shape == (groups, rank, out_channels // groups * width)
    identity = torch.eye(rank, dtype=torch.float64).expand(groups, -1, -1)
    torch.testing.assert_close(u.mT @ u, identity)
    torch.testing.assert_close(v @ v.mT, identity)
    assert (m >= 0).all()


def test_the_combinations_are_what_their_names_say() -> None:
    layer = nn.Conv2d(4, 4, 3)
    for combine, expected in {"product": 8.0, "sum": 6.0, "mean": 3.0}.items():
        kernel = Factorized(combine=combine).kernel(layer, ("a", "b"))
        u, v, m, _ = kernel.right_inverse(layer.weight.detach())
        ones = torch.ones_like(m)
        unit = Factorized(combine="sum").kernel(layer, ("a",))(u, v, ones)
        torch.testing.assert_close(kernel(u, v, 2 * ones, 4 * ones), expected * unit)


def test_a_full_product_is_taken_in_the_order_of_the_tasks() -> None:
    layer = nn.Conv2d(2, 2, 1)
    kernel = Factorized(middle="full").kernel(layer, ("a", "b"))
    identity = torch.eye(2)[None]
    first, second = torch.tensor([[[1.0, 2.0], [0.0, 1.0]]]), torch.tensor([[[1.0, 0.0], [3.0, 1.0]]])
    composed = kernel(identity, identity, first, second)[:, :, 0, 0]
    torch.testing.assert_close(composed, (first @ second)[0].T)


def test_each_task_has_factors_of_its_own_and_u_and_v_belong_to_all() -> None:
    layer = nn.Conv2d(4, 4, 3)
    parametrize.register_parametrization(layer, "weight", Factorized().kernel(layer, ("a", "b")))
    assert [factor.owner for factor in factors(layer)] == [None, None, "a", "b"]
    a, b = (factor.parameter for factor in factors(layer)[2:])
    assert a.data_ptr() != b.data_ptr()


def test_other_layers_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="ConvTranspose2d"):
        Factorized().kernel(nn.ConvTranspose2d(3, 3, 2), ("a",))
