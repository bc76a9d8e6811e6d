from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn.utils import parametrize

from edgemtl.core.errors import UsageError
from edgemtl.kernels import Factorized, factors, overparameterize

COMBINATIONS = ("product", "mean", "sum")
MATRICES = ("channel", "spatial")
LAYERS = [
    nn.Conv2d(6, 10, 3),
    nn.Conv2d(6, 10, (1, 5), stride=2, padding=1),
    nn.Conv2d(12, 8, 3, groups=4),
    nn.Conv2d(8, 8, 3, groups=8),
    nn.Conv2d(5, 7, 1),
    nn.Linear(11, 4),
]


VARIANTS = [
    *({"combine": combine, "middle": middle} for combine in COMBINATIONS for middle in ("diagonal", "full")),
    *({"combine": combine, "shared": shared} for combine in ("mean", "sum") for shared in ("u", "v", "none")),
    *({"combine": combine, "spectrum": "outer"} for combine in COMBINATIONS),
    *({"combine": combine, "log_middle": True} for combine in COMBINATIONS),
    {"shared": "none", "combine": "mean", "spectrum": "outer", "middle": "full"},
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("options", VARIANTS, ids=lambda options: "-".join(map(str, options.values())))
@pytest.mark.parametrize("matrix", MATRICES)
def test_the_factors_compose_to_the_weight_that_they_came_from(
    layer: nn.Conv2d | nn.Linear, options: dict[str, Any], matrix: Any
) -> None:
    kernel = Factorized(matrix=matrix, **options).kernel(layer, ("a", "b", "c"))
    weight = layer.weight.detach()
    torch.testing.assert_close(kernel(*kernel.right_inverse(weight)), weight, rtol=1e-5, atol=2e-6)
    exact = weight.double()
    torch.testing.assert_close(kernel(*kernel.right_inverse(exact)), exact, rtol=0, atol=3e-15)


@pytest.mark.parametrize("layer", LAYERS[:4], ids=str)
@pytest.mark.parametrize("matrix", MATRICES)
def test_the_factors_are_those_of_the_svd_of_the_matrix(layer: nn.Conv2d, matrix: Any) -> None:
    kernel = Factorized(matrix=matrix).kernel(layer, ("a",))
    u, v, m = kernel.right_inverse(layer.weight.detach().double())
    groups, (out_channels, in_channels, height, width) = layer.groups, layer.weight.shape
    outputs = out_channels // groups
    rows, columns = {
        "spatial": (in_channels * height, outputs * width),
        "channel": (outputs, in_channels * height * width),
    }[matrix]
    rank = min(rows, columns)
    assert u.shape == (groups, rows, rank)
    assert m.shape == (groups, 1, rank)
    assert v.shape == (groups, rank, columns)
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
    torch.testing.assert_close(composed, (first @ second)[0])


def test_each_task_has_factors_of_its_own_and_u_and_v_belong_to_all() -> None:
    layer = nn.Conv2d(4, 4, 3)
    parametrize.register_parametrization(layer, "weight", Factorized().kernel(layer, ("a", "b")))
    assert [factor.owner for factor in factors(layer)] == [None, None, "a", "b"]
    a, b = (factor.parameter for factor in factors(layer)[2:])
    assert a.data_ptr() != b.data_ptr()


@pytest.mark.parametrize(
    ("shared", "owners"),
    [("u", (None, "a", "b")), ("v", ("a", "b", None)), ("none", ("a", "b", "a", "b"))],
)
def test_what_tasks_do_not_share_is_theirs(shared: str, owners: tuple[str | None, ...]) -> None:
    kernel = Factorized(combine="sum", shared=shared).kernel(nn.Conv2d(4, 4, 3), ("a", "b"))
    assert kernel.owners == (*owners, "a", "b")
    assert len(kernel.rates) == len(kernel.owners)


@pytest.mark.parametrize(("middle", "rate"), [("diagonal", 1), ("full", 9 / 36)])
def test_square_factors_have_a_rate_by_their_size(middle: str, rate: float) -> None:
    kernel = Factorized(middle=middle, rates="size").kernel(nn.Conv2d(64, 36, 3), ("a",))
    assert kernel.rates == (9 / 36, 9 / 36, rate)


@pytest.mark.parametrize("middle", ["diagonal", "full"])
@pytest.mark.parametrize("combine", ["mean", "sum"])
def test_with_factors_of_their_own_the_tasks_kernels_are_combined(combine: str, middle: str) -> None:
    layer = nn.Conv2d(6, 4, 3, groups=2)
    kernel = Factorized(combine=combine, middle=middle, shared="none").kernel(layer, ("a", "b"))
    alone = Factorized(combine=combine, middle=middle).kernel(layer, ("a",))
    us, vs, ms = (torch.randn(2, *f.shape) for f in alone.right_inverse(layer.weight.detach()))
    total = alone(us[0], vs[0], ms[0]) + alone(us[1], vs[1], ms[1])
    expected = total / 2 if combine == "mean" else total
    torch.testing.assert_close(kernel(*us, *vs, *ms), expected)


def test_the_spectrum_starts_in_the_middle_or_half_in_each_outer_factor() -> None:
    layer = nn.Conv2d(4, 4, 3)
    weight = layer.weight.detach().double()
    u, v, a, b = Factorized().kernel(layer, ("a", "b")).right_inverse(weight)
    root_u, root_v, one, _ = Factorized(spectrum="outer").kernel(layer, ("a", "b")).right_inverse(weight)
    assert (one == 1).all()
    torch.testing.assert_close(root_u.square().sum(-2, keepdim=True), a * b)
    torch.testing.assert_close(root_u.mT @ root_u, root_v @ root_v.mT)
    torch.testing.assert_close(root_u @ root_v, (u * a * b) @ v)


def test_a_middle_in_log_space_is_positive_whatever_is_trained() -> None:
    layer = nn.Conv2d(2, 2, 1)
    identity = torch.eye(2)[None]
    logarithm = torch.tensor([[[-3.0, 0.5]]])
    found = Factorized(log_middle=True).kernel(layer, ("a",))(identity, identity, logarithm)
    torch.testing.assert_close(found[:, :, 0, 0], torch.diag(logarithm.exp().flatten()))


def test_the_logarithm_of_a_missing_singular_value_is_finite() -> None:
    layer = nn.Conv2d(4, 4, 3)
    kernel = Factorized(log_middle=True).kernel(layer, ("a",))
    factors_of_zero = kernel.right_inverse(torch.zeros_like(layer.weight))
    assert all(factor.isfinite().all() for factor in factors_of_zero)
    torch.testing.assert_close(kernel(*factors_of_zero), torch.zeros_like(layer.weight))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shared": "u"}, r"\$\.kernel\.shared: expected both, .*found u"),
        ({"log_middle": True, "middle": "full"}, r"\$\.kernel\.log_middle: expected false"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Factorized(**options)


@pytest.mark.parametrize("combine", ["product", "mean", "sum"])
def test_every_factor_has_a_gradient_in_memory_of_its_own(combine: str) -> None:
    """What changes gradients in place, as clipping does, must change each once."""
    layer = nn.Conv2d(4, 6, 3)
    overparameterize(Factorized(combine=combine), "stem", {("a", "b", "c"): layer})
    layer(torch.rand(1, 4, 9, 9)).square().sum().backward()
    gradients = [factor.parameter.grad for factor in factors(layer)]
    assert len(gradients) == 5
    before = [gradient.clone() for gradient in gradients]
    for gradient in gradients:
        gradient.mul_(0.5)
    for gradient, whole in zip(gradients, before, strict=True):
        assert torch.equal(gradient, whole / 2)


def test_a_kernel_of_zeros_stays_plain() -> None:
    layer = nn.Conv2d(4, 6, 3)
    nn.init.zeros_(layer.weight)
    (skipped,) = overparameterize(Factorized(), "stem", {("a",): layer})
    assert "its kernel is zero" in skipped.reason
