from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn

from edgemtl.kernels import DBB, DOConv, Factorized, KernelMethod, RepVGG, composed_state, overparameterize
from tests.kernels.blocked import CONVS, image, sequence

METHODS: list[KernelMethod] = [Factorized(), DOConv(), RepVGG(), DBB()]


def network() -> nn.Module:
    """Stages at the root and further in, with and without a bias, and a layer that stays plain."""
    inner = nn.ModuleDict({"deep": sequence(CONVS["wider"])})
    return nn.ModuleDict(
        {"conv": sequence(CONVS["same"]), "stage": inner, "head": nn.Conv2d(6, 2, 1)}
    ).double()


def overparameterized(method: KernelMethod) -> nn.Module:
    model = network()
    for stage in (model["conv"], model["stage"]["deep"]):
        overparameterize(method, "stage", {("a",): stage})
        stage(image(2, 8, 9))
    return model


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__struct_config__.tag)
def test_the_state_is_that_of_a_plain_network_that_computes_the_same(method: KernelMethod) -> None:
    model, plain = overparameterized(method).eval(), network().eval()
    plain.load_state_dict(composed_state(model))
    x = image(2, 9, 7)
    for stage, expected in ((plain["conv"], model["conv"]), (plain["stage"]["deep"], model["stage"]["deep"])):
        torch.testing.assert_close(stage(x), expected(x), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__struct_config__.tag)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_state_has_the_precision_of_the_network(method: KernelMethod, dtype: torch.dtype) -> None:
    state = composed_state(overparameterized(method).to(dtype))
    assert {value.dtype for value in state.values()} == {dtype, torch.int64}
    assert not any(value.requires_grad for value in state.values())


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__struct_config__.tag)
def test_reading_the_state_changes_nothing(method: KernelMethod) -> None:
    model = overparameterized(method)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    composed_state(model)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in after.items())


def test_the_state_of_a_plain_network_is_its_own() -> None:
    model = network()
    state = composed_state(model)
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
