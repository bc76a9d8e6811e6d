"""What every kernel method promises, for each member of KernelSpec with each choice that it offers."""

from __future__ import annotations

from typing import get_args

import pytest

torch = pytest.importorskip("torch")

from torch import nn

from edgemtl.collapse import collapse, fold
from edgemtl.kernels import (
    DBB,
    ACNet,
    DOConv,
    ExpandNet,
    Factorized,
    KernelMethod,
    KernelSpec,
    MobileOne,
    Plain,
    RepVGG,
    Residual,
    composed,
    composed_state,
    factors,
    parametrized,
)
from edgemtl.kernels.block import BlockMethod, blocks
from edgemtl.model import MultitaskModel
from tests.contracts.networks import PLANS, SIZE, TASKS, images, network

VARIANTS: dict[type[KernelMethod], list[KernelMethod]] = {
    Plain: [Plain()],
    Factorized: [
        *(
            Factorized(combine=combine, middle=middle)
            for combine in ("product", "mean", "sum")
            for middle in ("diagonal", "full")
        ),
        Factorized(log_middle=True),
        Factorized(matrix="spatial"),
        Factorized(matrix="spatial", combine="mean", shared="u"),
        Factorized(combine="sum", shared="v", spectrum="outer"),
        Factorized(combine="sum", shared="none", middle="full"),
    ],
    DOConv: [DOConv()],
    ExpandNet: [ExpandNet(expansion=2)],
    Residual: [
        Residual(),
        *(
            Residual(sides=("output", "input", "spatial"), owned=owned)
            for owned in ("tasks", "shared", "both")
        ),
    ],
    RepVGG: [RepVGG()],
    ACNet: [ACNet()],
    DBB: [DBB()],
    MobileOne: [MobileOne(), MobileOne(branches=1)],
}
METHODS = [variant for member in get_args(KernelSpec) for variant in VARIANTS[member]]


@pytest.fixture(params=METHODS, ids=lambda method: "-".join(str(v) for v in vars_of(method)))
def method(request: pytest.FixtureRequest) -> KernelMethod:
    return request.param


@pytest.fixture(params=PLANS)
def plan(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def vars_of(method: KernelMethod) -> list[object]:
    chosen = [getattr(method, name) for name in method.__struct_fields__]
    return [method.__struct_config__.tag, *(value for value in chosen if isinstance(value, str))]


def shaken(model: MultitaskModel) -> MultitaskModel:
    """Move every factor off its initial value, so that what holds is not special to it."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * parameter.abs().mean() * torch.randn_like(parameter))
    return model


def overparameterized(model: MultitaskModel) -> set[str]:
    """The paths of the layers that are more than a plain layer."""
    return {path for path, _ in (*parametrized(model), *blocks(model))}


@pytest.mark.parametrize("method", [method for method in METHODS if not isinstance(method, BlockMethod)])
def test_a_network_computes_the_same_before_and_after_it_is_overparameterized(
    method: KernelMethod, plan: str
) -> None:
    plain, trained = network(Plain(), plan).eval(), network(method, plan).eval()
    image = images()
    for task, expected in plain(image).items():
        torch.testing.assert_close(trained(image)[task], expected, rtol=1e-4, atol=1e-5)


def test_heads_are_drawn_alike_with_every_method(method: KernelMethod, plan: str) -> None:
    expected, found = network(Plain(), plan).heads, network(method, plan).heads
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value)


def test_the_collapsed_network_computes_what_the_trained_one_does(method: KernelMethod, plan: str) -> None:
    trained = shaken(network(method, plan))
    certificate = collapse(trained, SIZE).certificate
    assert set(certificate.fp64) == set(certificate.fp32) == set(TASKS)
    assert certificate.worst["fp64"] < 1e-10
    assert certificate.worst["fp32"] < 1e-5
    assert not certificate.unfolded


def test_the_fold_agrees_with_a_float64_reference_on_sizes_that_it_never_saw(method: KernelMethod) -> None:
    trained = shaken(network(method, "forked")).double().eval()
    plain, _ = fold(trained)
    for size in ((16, 16), (17, 29), (40, 9)):
        image = torch.rand(1, 3, *size, dtype=torch.float64)
        for task, expected in trained(image).items():
            torch.testing.assert_close(plain(image)[task], expected, rtol=1e-10, atol=1e-12)


def test_collapsing_leaves_plain_layers_and_the_trained_network_as_it_was(method: KernelMethod) -> None:
    trained = network(method, "forked")
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    plain = collapse(trained, SIZE).model
    assert trained.training
    assert all(torch.equal(value, before[key]) for key, value in trained.state_dict().items())
    assert not overparameterized(plain)
    kinds = {type(module) for module in plain.modules() if not list(module.children())}
    assert kinds <= {nn.Conv2d, nn.Linear, nn.ReLU}


def test_every_factor_gets_a_gradient(method: KernelMethod, plan: str) -> None:
    model = network(method, plan)
    sum(prediction.square().mean() for prediction in model(images()).values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if not name.endswith("conv.bias"):  # before a normalization it changes nothing
            assert parameter.grad.abs().max() > 0, name


def test_groups_share_the_factors_of_no_task_and_own_those_of_theirs(method: KernelMethod) -> None:
    model = network(method, "separate")
    by_layer: dict[str, list[list[tuple[str | None, int]]]] = {}
    for path, layer in parametrized(model):
        _, _, layer_name = path.split(".", 2)
        by_layer.setdefault(layer_name, []).append([(f.owner, id(f.parameter)) for f in factors(layer)])
    for copies in by_layer.values():
        assert len(copies) == len(TASKS)
        shared = [{identity for owner, identity in copy if owner is None} for copy in copies]
        own = [{identity for owner, identity in copy if owner is not None} for copy in copies]
        if not any(own):  # nothing belongs to a task, so groups that shared the rest would always be equal
            own, shared = shared, []
        assert all(copy == shared[0] for copy in shared)
        assert all(a.isdisjoint(b) for i, a in enumerate(own) for b in own[:i])


@pytest.mark.parametrize("method", [method for method in METHODS if isinstance(method, BlockMethod)])
def test_groups_share_nothing_of_a_block(method: KernelMethod) -> None:
    model = network(method, "separate")
    parameters = [id(parameter) for _, block in blocks(model) for parameter in block.parameters()]
    assert parameters
    assert len(parameters) == len(set(parameters))


def test_layers_that_match_no_pattern_stay_plain_and_are_listed(method: KernelMethod) -> None:
    import msgspec

    model = network(msgspec.structs.replace(method, layers=("first.*", "grouped*")))
    names = overparameterized(model)
    assert names <= {"segments.trunk.first.conv", "segments.trunk.grouped.conv"}
    assert len(names) + len(model.skipped) == 7
    assert all(skipped.reason for skipped in model.skipped)


def test_kernels_are_composed_once_within_the_cache(method: KernelMethod) -> None:
    model = network(method)
    with composed():
        for _, layer in parametrized(model):
            assert layer.weight is layer.weight


def test_a_composed_kernel_is_contiguous(method: KernelMethod) -> None:
    """Strides like those of channels_last would turn the whole network to that format."""
    for path, layer in parametrized(network(method)):
        assert layer.weight.stride() == torch.empty(layer.weight.shape).stride(), path


def test_the_composed_state_is_that_of_the_plain_network(method: KernelMethod, plan: str) -> None:
    plain, trained = network(Plain(), plan), network(method, plan)
    state = composed_state(trained)
    assert state.keys() == plain.state_dict().keys()
    assert all(state[key].shape == value.shape for key, value in plain.state_dict().items())
