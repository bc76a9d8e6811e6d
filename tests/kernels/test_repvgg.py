from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn
from torch.nn import functional as F

from edgemtl.kernels import RepVGG, overparameterize
from edgemtl.kernels.block import Shortcut
from tests.kernels.blocked import CONVS, assert_fuses_exactly, block_of, blocked, image, sequence


@pytest.mark.parametrize("name", CONVS)
def test_the_branches_fuse_exactly(name: str) -> None:
    assert_fuses_exactly(blocked(RepVGG(), CONVS[name]), CONVS[name])


@pytest.mark.parametrize("training", [True, False])
def test_the_branches_are_those_of_the_paper(training: bool) -> None:
    stage = blocked(RepVGG(), CONVS["same"]).train(training)
    full, center, identity = block_of(stage).branches

    def norm(value: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        statistics = (norm.running_mean.clone(), norm.running_var.clone())
        return F.batch_norm(value, *statistics, norm.weight, norm.bias, training, eps=norm.eps)

    x = image(2, 9, 8)
    expected = (
        norm(F.conv2d(x, full.conv.weight, full.conv.bias, padding=1), full.norm)
        + norm(F.conv2d(x, center.conv.weight), center.norm)
        + norm(x, identity.norm)
    )
    torch.testing.assert_close(block_of(stage)(x), expected, rtol=1e-12, atol=1e-13)


SAME_SHAPE = {"same", "groups", "depthwise", "dilation", "a row"}


@pytest.mark.parametrize("name", CONVS)
def test_the_identity_is_there_where_the_shape_stays(name: str) -> None:
    branches = block_of(blocked(RepVGG(), CONVS[name])).branches
    assert [type(branch) for branch in branches[2:]] == [Shortcut] * (name in SAME_SHAPE)


def test_a_pointwise_convolution_has_the_identity_beside_it_or_stays() -> None:
    pointwise = nn.Conv2d(6, 6, 1)
    assert_fuses_exactly(blocked(RepVGG(), pointwise), pointwise)
    (skipped,) = overparameterize(RepVGG(), "stage", {("a",): sequence(nn.Conv2d(6, 4, 1))})
    assert skipped.reason == "no other branch fits beside it"
