from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn

from edgemtl.kernels import ACNet, overparameterize
from tests.kernels.blocked import CONVS, assert_fuses_exactly, block_of, blocked, sequence


@pytest.mark.parametrize("name", CONVS)
def test_the_branches_fuse_exactly(name: str) -> None:
    assert_fuses_exactly(blocked(ACNet(), CONVS[name]), CONVS[name])


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("same", [(3, 3), (3, 1), (1, 3)]),
        ("stride 2", [(5, 5), (5, 1), (1, 5)]),
        ("all at once", [(5, 3), (5, 1), (1, 3)]),
        ("a row", [(1, 5), (1, 1)]),
    ],
)
def test_a_column_and_a_row_stand_beside_the_kernel(name: str, sizes: list[tuple[int, int]]) -> None:
    block = block_of(blocked(ACNet(), CONVS[name]))
    assert [m.kernel_size for m in block.modules() if isinstance(m, nn.Conv2d)] == sizes


def test_the_column_and_the_row_are_the_skeleton_of_the_kernel() -> None:
    _, column, row = block_of(blocked(ACNet(), CONVS["same"])).branches
    corners = torch.ones(3, 3, dtype=torch.bool)
    corners[1], corners[:, 1] = False, False
    for branch, shape in ((column, (3, 1)), (row, (1, 3))):
        kernel, _ = branch.fuse()
        assert branch.conv.weight.shape[-2:] == shape
        assert (kernel[..., corners] == 0).all()
        assert kernel.count_nonzero() == branch.conv.weight.numel()


def test_a_pointwise_convolution_is_refused_by_name() -> None:
    (skipped,) = overparameterize(ACNet(), "stage", {("a",): sequence(nn.Conv2d(6, 6, 1))})
    assert skipped.reason == "a 1x1 kernel has no row and no column"
