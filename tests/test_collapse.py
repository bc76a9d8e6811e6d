from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from edgemtl.backbones import ResNet, SegNet, chain
from edgemtl.collapse import collapse, fold
from edgemtl.core.errors import GateError
from edgemtl.kernels import DOConv, Factorized, Plain
from edgemtl.model import MultitaskModel, parameters_of
from tests.contracts.networks import SIZE, TASKS, images, network

BACKBONES = [
    SegNet(widths=(4, 8), convs=(1, 2)),
    SegNet(widths=(4, 8), convs=(2, 1), decoder="unpool"),
    ResNet(depth=18, width=8),
]


@pytest.mark.parametrize("backbone", BACKBONES, ids=repr)
def test_every_backbone_collapses_with_all_its_normalizations(backbone: SegNet | ResNet) -> None:
    torch.manual_seed(0)
    model = MultitaskModel(backbone.stages(), TASKS, kernel=DOConv())
    for _ in range(2):
        model(torch.rand(2, 3, 45, 37))
    collapsed = collapse(model, (45, 37))
    assert not collapsed.certificate.unfolded
    assert not any(isinstance(module, nn.BatchNorm2d) for module in collapsed.model.modules())


def test_the_certificate_counts_what_collapsing_saves() -> None:
    trained = network(Factorized())
    collapsed = collapse(trained, SIZE)
    assert collapsed.certificate.parameters == (parameters_of(trained), parameters_of(collapsed.model))
    before, after = collapsed.certificate.macs
    assert before > after


def test_real_images_join_the_comparison() -> None:
    poisoned = images()
    poisoned[0] = torch.nan
    with pytest.raises(GateError, match="certificate fp64"):
        collapse(network(Plain()), SIZE, poisoned)


def test_saved_weights_load_into_what_fold_builds_again() -> None:
    first, _ = fold(network(Factorized(), "forked", seed=0))
    second, _ = fold(network(Factorized(), "forked", seed=1))
    second.load_state_dict(first.state_dict())
    image = images()
    for task, prediction in first(image).items():
        assert torch.equal(second(image)[task], prediction)


class Residual(nn.Module):
    """Uses its convolution twice, so that its normalization can be folded into neither use."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) + self.conv(x)


class Branching(nn.Module):
    """Control flow that depends on values: torch.fx cannot follow it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) if x.sum() > 0 else x


class Rows(nn.Module):
    """Normalizes channels after a linear layer over the width."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.linear, self.norm = nn.AdaptiveAvgPool2d(6), nn.Linear(6, 7), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.pool(x).transpose(1, 2).flatten(0, 1)  # [batch x height, channels, width]
        return self.norm(self.linear(rows)).unflatten(0, (-1, 6)).transpose(1, 2)


@pytest.mark.parametrize(
    ("stage", "reason"),
    [
        (Residual(), "more than once"),
        (Branching(), "cannot trace"),
        (nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)), "follows no Conv2d"),
        (nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)), "of the batch"),
        (nn.Sequential(spectral_norm(nn.Conv2d(4, 4, 1)), nn.BatchNorm2d(4)), "is computed"),
        (Rows(), "not normalize the features"),
    ],
    ids=["used twice", "untraceable", "norm first", "no statistics", "computed", "other dimension"],
)
def test_a_normalization_that_cannot_be_folded_stays_with_the_reason(stage: nn.Module, reason: str) -> None:
    model = MultitaskModel(chain(stem=nn.Conv2d(3, 4, 3), body=stage), TASKS, kernel=Factorized())
    model(images())
    certificate = collapse(model, SIZE).certificate
    assert [reason in skipped.reason for skipped in certificate.unfolded] == [True]
    assert certificate.unfolded[0].layer.startswith("trunk.body.")


def test_a_network_may_begin_with_a_buffer_of_integers() -> None:
    class Swapped(nn.Module):
        """BGR."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("order", torch.tensor([2, 1, 0]))

        def forward(self, x: Tensor) -> Tensor:
            return x[:, self.order]

    model = MultitaskModel(chain(swap=Swapped(), stem=nn.Conv2d(3, 4, 3)), TASKS, kernel=Factorized())
    collapse(model, SIZE)


def test_the_model_stays_as_it_was() -> None:
    model = network(Factorized(), "forked").double().train()
    model.segment("trunk")["first"].eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    collapse(model, SIZE)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
