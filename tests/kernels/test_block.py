from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from edgemtl.balancing import Fixed
from edgemtl.collapse import collapse
from edgemtl.data import Batch
from edgemtl.kernels import DBB, ACNet, KernelMethod, MobileOne, RepVGG, overparameterize
from edgemtl.kernels.block import blocks, fused, shortcut, window
from edgemtl.training.average import Average
from edgemtl.training.objective import Objective
from edgemtl.training.steps import UPDATES
from edgemtl.training.syncnorm import synchronize_norms
from tests.contracts.networks import SIZE, TASKS, images, network
from tests.kernels.blocked import CONVS, block_of, blocked, image, sequence

METHODS: list[KernelMethod] = [RepVGG(), ACNet(), DBB(), MobileOne(branches=2)]
all_methods = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__struct_config__.tag)


@st.composite
def convolutions(draw: st.DrawFn) -> nn.Conv2d:
    def pair(low: int, high: int) -> tuple[int, int]:
        return draw(st.integers(low, high)), draw(st.integers(low, high))

    odd = st.sampled_from((1, 3, 5))
    return nn.Conv2d(
        6,
        draw(st.sampled_from((6, 12))),
        (draw(odd), draw(odd)),
        pair(1, 3),
        pair(0, 4),
        pair(1, 3),
        draw(st.sampled_from((1, 2, 6))),
        bias=False,
    ).double()


@settings(max_examples=100, deadline=None)
@given(conv=convolutions(), data=st.data())
def test_a_window_sees_what_the_taps_in_the_middle_of_the_kernel_see(
    conv: nn.Conv2d, data: st.DataObject
) -> None:
    height, width = (data.draw(st.sampled_from(range(1, size + 1, 2))) for size in conv.kernel_size)
    branch = window(conv, nn.BatchNorm2d(conv.out_channels), height, width).double().eval()
    kernel, bias = branch.fuse()
    assert kernel.shape == conv.weight.shape
    x = image(1, 14, 13)
    expected = F.conv2d(x, kernel, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
    torch.testing.assert_close(branch(x), expected, rtol=1e-12, atol=1e-13)


@settings(max_examples=100, deadline=None)
@given(conv=convolutions())
def test_the_input_is_a_branch_exactly_where_the_result_has_its_shape(conv: nn.Conv2d) -> None:
    norm = nn.BatchNorm2d(conv.out_channels)
    x = image(1, 14, 13)
    found = shortcut(conv, norm)
    if found:
        (branch,) = found
        kernel, bias = branch.double().eval().fuse()
        expected = F.conv2d(x, kernel, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        torch.testing.assert_close(branch(x), expected, rtol=1e-12, atol=1e-13)
    else:
        # A shape alone can agree by accident on one size, so ask two.
        assert any(conv(y).shape != y.shape for y in (x, image(1, 17, 19)))


class ReadTwice(nn.Module):
    """The convolution's own result is used beside the normalized one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv(x)
        return self.norm(inner) + inner


def normalized(conv: nn.Module, norm: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(conv, norm or nn.BatchNorm2d(6))


REFUSED: dict[str, tuple[nn.Module, str]] = {
    "linear": (nn.Sequential(nn.Linear(6, 6)), "Linear is no Conv2d"),
    "transposed": (normalized(nn.ConvTranspose2d(6, 6, 3)), "ConvTranspose2d is no Conv2d"),
    "no norm": (nn.Sequential(nn.Conv2d(6, 6, 3), nn.ReLU()), "one batch normalization alone"),
    "norm later": (nn.Sequential(nn.Conv2d(6, 6, 3), nn.ReLU(), nn.BatchNorm2d(6)), "normalization alone"),
    "read twice": (ReadTwice(), "one batch normalization alone"),
    "reflection": (normalized(nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect")), "zeros to pad with"),
    "a word": (normalized(nn.Conv2d(6, 6, 3, padding="same")), "numbers as padding"),
    "even": (normalized(nn.Conv2d(6, 6, (3, 2))), "even size"),
    "no scale": (normalized(nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6, affine=False)), "no scale"),
    "no statistics": (
        normalized(nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6, track_running_stats=False)),
        "no running statistics",
    ),
}


@all_methods
@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_listed_with_the_reason_and_left_as_it_was(
    name: str, method: KernelMethod
) -> None:
    layer, reason = REFUSED[name]
    stage = copy.deepcopy(layer)
    kinds = [type(module) for module in stage.modules()]
    (skipped,) = overparameterize(method, "stage", {("a",): stage})
    assert reason in skipped.reason
    assert [type(module) for module in stage.modules()] == kinds


@all_methods
def test_the_first_branch_is_the_convolution_and_the_normalization_as_they_were(method: KernelMethod) -> None:
    plain, stage = sequence(CONVS["same"]), sequence(CONVS["same"])
    nn.init.uniform_(plain[1].weight)
    plain[1](torch.rand(2, 6, 4, 4, dtype=torch.float64))
    stage.load_state_dict(plain.state_dict())
    overparameterize(method, "stage", {("a",): stage})
    first = block_of(stage).branches[0].eval()
    x = image(2, 7, 8)
    torch.testing.assert_close(first(x), plain[:2].eval()(x))


@all_methods
def test_copies_of_a_stage_start_equal_and_share_nothing(method: KernelMethod) -> None:
    copies = {(task,): sequence(CONVS["same"]) for task in "ab"}
    overparameterize(method, "stage", copies)
    a, b = copies.values()
    for one, other in zip(a.parameters(), b.parameters(), strict=True):
        assert one is not other
        assert torch.equal(one, other)


@all_methods
def test_every_layer_of_a_stage_gets_a_block(method: KernelMethod) -> None:
    """The stage is looked at again after each block, which must not be in the way."""
    stage = nn.Sequential(sequence(CONVS["wider"]), sequence(nn.Conv2d(10, 10, 3, padding=1)))
    names = set(dict(stage.named_modules())) | set(vars(stage))
    assert overparameterize(method, "stage", {("a",): stage}) == ()
    assert [path for path, _ in blocks(stage)] == ["0.0", "1.0"]
    assert set(vars(stage)) <= names


def test_new_layers_take_the_precision_of_the_convolution() -> None:
    block = block_of(blocked(DBB(), CONVS["groups"]))
    assert {parameter.dtype for parameter in block.parameters()} == {torch.float64}


def test_a_normalization_is_fused_at_its_own_epsilon() -> None:
    norm = nn.BatchNorm2d(2, eps=3.0).double().eval()
    kernel, bias = fused(torch.ones(2, 1, 1, 1, dtype=torch.float64), None, norm)
    assert (kernel == 0.5).all()
    assert (bias == 0).all()
    assert not kernel.requires_grad


@all_methods
def test_processes_share_the_statistics_of_every_branch(method: KernelMethod) -> None:
    model, x = network(method, "forked").eval(), images()
    expected, names = model(x), list(model.state_dict())
    synchronize_norms(model)
    assert list(model.state_dict()) == names
    norms = [m for _, block in blocks(model) for m in block.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(type(norm) is not nn.BatchNorm2d for norm in norms)
    assert all(torch.equal(value, expected[task]) for task, value in model(x).items())
    assert collapse(model, SIZE).certificate.worst["fp64"] < 1e-10


@all_methods
def test_averaged_weights_collapse_too(method: KernelMethod) -> None:
    model = network(method)
    average = Average(model, 0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    model(images())
    average.update(model, step=100)
    trained = collapse(model, SIZE).model.state_dict()
    with average.applied(model):
        averaged = collapse(model, SIZE).model.state_dict()
    assert trained.keys() == averaged.keys()
    assert any(not torch.equal(value, averaged[name]) for name, value in trained.items())


@all_methods
def test_saved_weights_load_into_a_network_that_was_built_again(method: KernelMethod) -> None:
    saved, built = network(method, "forked", seed=1), network(method, "forked", seed=2)
    built.load_state_dict(saved.state_dict())
    x = images()
    found = built.eval()(x)
    assert all(torch.equal(value, found[task]) for task, value in saved.eval()(x).items())


def batch() -> Batch:
    normals = F.normalize(torch.randn(2, 3, *SIZE), dim=1)
    labels = {"segmentation": torch.randint(-1, 5, (2, *SIZE)), "depth": torch.rand(2, 1, *SIZE) + 0.5}
    return Batch(("a", "b"), images(), {**labels, "normals": normals})


@all_methods
@pytest.mark.parametrize("update", ["routed", "alternating"])
def test_without_factors_of_the_tasks_every_update_trains_like_joint(
    method: KernelMethod, update: str
) -> None:
    torch.manual_seed(0)
    step, trained = batch(), {}
    for name in ("joint", update):
        model = network(method, "forked")
        objective = Objective(model, Fixed().build(tuple(TASKS)))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(2):
            for _ in UPDATES[name](objective, step):
                optimizer.step()
                optimizer.zero_grad()
        trained[name] = model.state_dict()
    for name, value in trained["joint"].items():
        torch.testing.assert_close(trained[update][name], value, rtol=1e-3, atol=1e-4)


def test_what_is_frozen_gets_no_branches_that_would_be_trained() -> None:
    stage = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)).requires_grad_(False)
    (skipped,) = overparameterize(RepVGG(), "stem", {("a",): stage})
    assert "it is frozen" in skipped.reason
