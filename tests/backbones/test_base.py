from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn

from edgemtl.backbones import Stage
from edgemtl.backbones.base import IMAGE, ConvNormAct, Normalize
from edgemtl.core.errors import UsageError


class Both(nn.Module):
    def forward(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return first + second, first - second


class Sum(nn.Module):
    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return first + second


def test_a_stage_passes_what_it_reads_in_order_and_names_what_comes_back() -> None:
    stage = Stage("sum", Both(), ("a", "b"), 1, 1, ("sum.difference",))
    known = {"b": torch.tensor(1.0), IMAGE: torch.tensor(9.0), "a": torch.tensor(3.0)}
    assert stage(stage.module, known) == {"sum": torch.tensor(4.0), "sum.difference": torch.tensor(2.0)}
    assert stage.writes == ("sum", "sum.difference")


def test_a_stage_runs_the_copy_that_it_is_given() -> None:
    stage = Stage("last", nn.Identity(), (IMAGE,), 3, 1)
    assert stage(nn.ReLU(), {IMAGE: torch.tensor(-1.0)}) == {"last": torch.tensor(0.0)}


@pytest.mark.parametrize("module", [Both(), Sum()])
def test_a_stage_that_returns_other_than_it_says_fails(module: nn.Module) -> None:
    """A batch of three, too, is no tuple of three."""
    stage = Stage("sum", module, ("a", "b"), 1, 1, ("one", "two"))
    with pytest.raises(UsageError, match=r"stage sum: .* tuple of sum, one, two, found (2 of them|Tensor)"):
        stage(stage.module, {"a": torch.zeros(3), "b": torch.zeros(3)})


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2), (5, 2)])
def test_a_convolution_keeps_the_size_but_for_its_stride(kernel: int, stride: int) -> None:
    found = ConvNormAct(3, 4, kernel, stride)(torch.rand(2, 3, 9, 12))
    assert found.shape == (2, 4, -(-9 // stride), -(-12 // stride))
    assert found.min() == 0


def test_normalize_gives_mean_zero_and_deviation_one() -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    image = torch.tensor(mean).view(1, 3, 1, 1) + torch.tensor(std).view(1, 3, 1, 1) * torch.tensor(
        [-1.0, 1.0]
    )
    found = Normalize(mean, std)(image)
    torch.testing.assert_close(found, torch.tensor([-1.0, 1.0]).expand(1, 3, 1, 2))


def test_constants_are_no_weights() -> None:
    assert not Normalize((0.5,), (0.5,)).state_dict()
