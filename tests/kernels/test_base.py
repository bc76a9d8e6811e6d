from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn

from edgemtl.backbones import chain
from edgemtl.collapse import collapse
from edgemtl.core.errors import UsageError
from edgemtl.kernels import (
    DBB,
    DOConv,
    Factorized,
    composed,
    composed_state,
    overparameterize,
    parametrized,
    weight_of,
)
from edgemtl.model import MultitaskModel
from edgemtl.tasks import Depth
from tests.contracts.networks import network


def test_a_stage_that_is_itself_a_layer_can_be_overparameterized() -> None:
    stage = nn.Conv2d(3, 4, 3)
    before = stage.weight.detach().clone()
    assert overparameterize(Factorized(), "stem", {("a",): stage}) == ()
    assert [path for path, _ in parametrized(stage)] == [""]
    torch.testing.assert_close(weight_of(stage), before)


def test_patterns_match_the_stage_and_the_path() -> None:
    stage = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    (skipped,) = overparameterize(Factorized(layers=("stem.0",)), "stem", {("a",): stage})
    assert skipped.layer == "stem.1"
    assert "stem.0" in skipped.reason


def test_a_transposed_convolution_is_listed_with_the_reason() -> None:
    stage = nn.Sequential(nn.ConvTranspose2d(3, 4, 2))
    (skipped,) = overparameterize(Factorized(), "up", {("a",): stage})
    assert (skipped.layer, "ConvTranspose2d" in skipped.reason) == ("up.0", True)


def test_the_gradient_of_a_composed_kernel_leads_to_the_factors() -> None:
    """The chain rule from kernel space to factors equals plain backpropagation."""
    torch.manual_seed(0)
    stage = nn.Conv2d(3, 4, 3)
    overparameterize(Factorized(), "stem", {("a", "b"): stage})
    image = torch.rand(2, 3, 8, 8)
    stage(image).square().sum().backward()
    expected = {name: p.grad.clone() for name, p in stage.named_parameters() if "original" in name}
    stage.zero_grad()
    with composed():
        kernel = weight_of(stage)
        (gradient,) = torch.autograd.grad(stage(image).square().sum(), kernel)
        kernel.backward(gradient)
    for name, value in expected.items():
        torch.testing.assert_close(stage.get_parameter(name).grad, value)


def test_the_composed_state_holds_no_factor() -> None:
    stage = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    names = set(stage.state_dict())
    overparameterize(Factorized(), "stem", {("a",): stage})
    assert set(composed_state(stage)) == names


def test_a_pattern_that_no_layer_matches_is_refused() -> None:
    with pytest.raises(UsageError, match=r"\$\.kernel\.layers.*`typo\*`, which matches none"):
        network(Factorized(layers=("first*", "typo*")))


def test_a_method_that_does_no_layer_is_refused() -> None:
    with pytest.raises(UsageError, match=r"\$\.kernel: .*even\.0"):
        network(DBB(layers=("even*",)))


def test_a_layer_whose_weight_is_computed_already_is_listed_and_collapses() -> None:
    stages = chain(
        normed=nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)), nn.ReLU()),
        plain=nn.Conv2d(4, 4, 3),
    )
    model = MultitaskModel(stages, {"depth": Depth()}, kernel=DOConv())
    (skipped,) = model.skipped
    assert (skipped.layer, "computed already" in skipped.reason) == ("normed.0", True)
    assert [path for path, _ in parametrized(model)] == ["segments.trunk.plain"]
    assert collapse(model, (16, 16)).certificate.worst["fp32"] < 1e-5
