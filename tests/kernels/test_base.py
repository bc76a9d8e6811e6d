from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

import msgspec
from torch import nn

from edgemtl.backbones import chain
from edgemtl.collapse import collapse
from edgemtl.core.errors import UsageError
from edgemtl.kernels import (
    DBB,
    DOConv,
    Factorized,
    KernelMethod,
    RepVGG,
    Residual,
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


class Named(nn.Module):
    """A convolution and its normalization, which the forward pass knows by other names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.block = nn.Sequential(self.conv, self.norm, nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


def hooked() -> nn.Sequential:
    with pytest.warns(FutureWarning):
        return nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4))


@pytest.mark.parametrize("method", [Residual(), RepVGG()], ids=["weight space", "blocks"])
@pytest.mark.parametrize(
    ("stage", "reason"),
    [(Named, "conv and block.0"), (Tied, "another layer has"), (hooked, "is computed already")],
)
def test_layers_that_are_not_alone_with_their_weight_stay_plain(
    stage: Callable[[], nn.Module], reason: str, method: KernelMethod
) -> None:
    module = stage()
    names = list(module.state_dict())
    skipped = overparameterize(method, "stem", {("a",): module})
    assert skipped and all(reason in left.reason for left in skipped)
    assert list(module.state_dict()) == names


def test_a_method_of_no_layers_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="length >= 1"):
        msgspec.convert({"type": "residual", "layers": []}, Residual)
