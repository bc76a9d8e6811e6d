from __future__ import annotations

import msgspec
import pytest

torch = pytest.importorskip("torch")

from torch import nn

from edgemtl.kernels import KernelSpec, MobileOne, RepVGG
from tests.kernels.blocked import CONVS, assert_fuses_exactly, block_of, blocked


@pytest.mark.parametrize("branches", [1, 4])
@pytest.mark.parametrize("name", CONVS)
def test_the_branches_fuse_exactly(name: str, branches: int) -> None:
    assert_fuses_exactly(blocked(MobileOne(branches=branches), CONVS[name]), CONVS[name])


@pytest.mark.parametrize("branches", [1, 2, 5])
def test_there_are_as_many_full_kernels_as_asked_for(branches: int) -> None:
    block = block_of(blocked(MobileOne(branches=branches), CONVS["same"]))
    full = [module for module in block.modules() if isinstance(module, nn.Conv2d)]
    assert [conv.kernel_size for conv in full] == [(3, 3)] * branches + [(1, 1)]
    assert len({id(conv) for conv in full}) == len({conv.weight.sum().item() for conv in full})


def test_one_full_kernel_is_repvgg() -> None:
    block, other = (block_of(blocked(m, CONVS["same"])) for m in (MobileOne(branches=1), RepVGG()))
    assert [type(branch) for branch in block.branches] == [type(branch) for branch in other.branches]


def test_a_pointwise_convolution_has_no_smaller_one_beside_it() -> None:
    pointwise = nn.Conv2d(6, 4, 1)
    stage = blocked(MobileOne(), pointwise)
    assert len(block_of(stage).branches) == 4
    assert_fuses_exactly(stage, pointwise)


def test_a_block_needs_a_full_kernel() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"\$\.branches"):
        msgspec.convert({"type": "mobileone", "branches": 0}, KernelSpec)
