from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn
from torch.nn import functional as F

from edgemtl.kernels import DBB, overparameterize
from tests.kernels.blocked import CONVS, assert_fuses_exactly, block_of, blocked, image, sequence


@pytest.mark.parametrize("name", CONVS)
def test_the_branches_fuse_exactly(name: str) -> None:
    assert_fuses_exactly(blocked(DBB(), CONVS[name]), CONVS[name])


def framed(inner: Tensor, border: Tensor, padding: int) -> Tensor:
    """``inner`` within a frame of the value ``border`` [c]."""
    count, channels, height, width = inner.shape
    canvas = border.view(1, -1, 1, 1).expand(count, channels, height + 2 * padding, width + 2 * padding)
    canvas = canvas.clone()
    canvas[:, :, padding:-padding, padding:-padding] = inner
    return canvas


def test_the_sequences_are_those_of_the_paper() -> None:
    """In eval mode; the border between the convolutions is the normalization of zero."""
    stage = blocked(DBB(), CONVS["same"]).eval()
    _, _, expanded, averaged = block_of(stage).branches
    x = image(2, 9, 8)
    for branch in (expanded, averaged):
        zero = branch.inner(torch.zeros(1, 6, 1, 1, dtype=torch.float64)).flatten()
        inner = framed(branch.inner(branch.first(x)), zero, 1)
        second = branch.conv(inner) if branch is expanded else F.avg_pool2d(inner, 3, stride=1)
        torch.testing.assert_close(branch(x), branch.norm(second), rtol=1e-12, atol=1e-13)


def test_while_training_the_border_is_a_constant() -> None:
    branch = block_of(blocked(DBB(), CONVS["much padding"])).branches[2]
    branch.second = lambda padded: padded[:, :4, :3]  # nothing but the border
    branch(image(2, 5, 5)).square().sum().backward()
    assert branch.inner.weight.grad.count_nonzero() == 0


@pytest.mark.parametrize(("name", "channels"), [("same", 6), ("wider groups", 6), ("depthwise", 12)])
def test_the_inner_channels_are_those_of_the_authors(name: str, channels: int) -> None:
    assert block_of(blocked(DBB(), CONVS[name])).branches[2].inner.num_features == channels


@pytest.mark.parametrize("name", ["same", "wider", "groups"])
def test_the_first_of_the_sequence_starts_as_the_identity(name: str) -> None:
    stage = sequence(CONVS[name])
    overparameterize(DBB(), "stage", {("a",): stage})
    x = image(1, 4, 5)
    assert torch.equal(block_of(stage).branches[2].first(x), x)


def test_a_pointwise_convolution_is_refused_by_name() -> None:
    (skipped,) = overparameterize(DBB(), "stage", {("a",): sequence(nn.Conv2d(6, 6, 1))})
    assert "1x1" in skipped.reason
