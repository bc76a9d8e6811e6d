from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from edgemtl.training.muon import Orthogonalizing, has_matrices, matrices, orthogonalized

sizes = st.integers(2, 24)


def optimizer_of(parameter: nn.Parameter, weight_decay: float = 0.0) -> Orthogonalizing:
    return Orthogonalizing([{"params": [parameter], "lr": 0.1, "weight_decay": weight_decay}], momentum=0.9)


def moved(start: Tensor, gradient: Tensor) -> Tensor:
    """What a first step adds."""
    parameter = nn.Parameter(start.clone())
    parameter.grad = gradient
    optimizer_of(parameter).step()
    return parameter.detach() - start


@given(count=st.integers(1, 3), rows=sizes, columns=sizes, seed=st.integers(0, 99))
def test_singular_values_come_near_one_and_the_singular_vectors_stay(
    count: int, rows: int, columns: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rank = min(rows, columns)
    u, v = (torch.linalg.qr(torch.randn(count, n, rank, generator=generator)).Q for n in (rows, columns))
    spectrum = 0.1 + torch.rand(count, rank, generator=generator)
    found = u.mT @ orthogonalized(1000 * (u * spectrum.unsqueeze(1)) @ v.mT) @ v
    values = found.diagonal(dim1=1, dim2=2)
    assert (values > 0.6).all()
    assert (values < 1.3).all()
    torch.testing.assert_close(found, torch.diag_embed(values), rtol=0, atol=1e-3)


def test_each_matrix_of_a_stack_moves_as_it_would_alone() -> None:
    start, gradient = torch.randn(3, 4, 6), torch.randn(3, 4, 6)
    together = moved(start, gradient)
    for index in range(3):
        torch.testing.assert_close(together[index], moved(start[index], gradient[index]))


def test_a_kernel_moves_as_the_matrix_of_its_output_channels() -> None:
    start, gradient = torch.randn(5, 4, 3, 3), torch.randn(5, 4, 3, 3)
    expected = moved(start.flatten(1), gradient.flatten(1))
    torch.testing.assert_close(moved(start, gradient).flatten(1), expected)


def test_entries_move_about_as_far_as_those_of_adam_do() -> None:
    """A step of a square matrix is 0.2 times the rate, in the root mean square."""
    for size in (8, 32, 128):
        step = moved(torch.zeros(size, size), torch.randn(size, size))
        assert step.square().mean().sqrt() == pytest.approx(0.2 * 0.1, rel=0.3)


def test_what_has_no_gradient_stays() -> None:
    parameter = nn.Parameter(torch.ones(3, 3))
    optimizer_of(parameter, weight_decay=0.5).step()
    assert (parameter == 1).all()


@pytest.mark.parametrize(
    ("shape", "stack"),
    [((4, 6), (1, 4, 6)), ((2, 4, 6), (2, 4, 6)), ((8, 4, 3, 3), (1, 8, 36)), ((8, 1, 3, 3), (1, 8, 9))],
)
def test_parameters_are_stacks_of_matrices(shape: tuple[int, ...], stack: tuple[int, ...]) -> None:
    parameter = nn.Parameter(torch.zeros(shape))
    assert has_matrices(parameter)
    assert matrices(parameter).shape == stack


@pytest.mark.parametrize("shape", [(), (5,), (5, 1), (1, 5), (2, 1, 5), (1, 4, 3, 3)])
def test_a_single_row_or_column_is_no_matrix(shape: tuple[int, ...]) -> None:
    assert not has_matrices(nn.Parameter(torch.zeros(shape)))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_batch_without_labels_moves_nothing_and_is_as_if_it_had_not_come(weight_decay: float) -> None:
    gradients = [torch.randn(4, 6) for _ in range(3)]
    ends = []
    for arriving in (gradients, [*gradients[:2], torch.zeros(4, 6), torch.zeros(4, 6), gradients[2]]):
        parameter = nn.Parameter(torch.ones(4, 6))
        optimizer = optimizer_of(parameter, weight_decay)
        for gradient in arriving:
            before = parameter.detach().clone()
            parameter.grad = gradient
            optimizer.step()
            assert gradient.any() or torch.equal(parameter, before)
        ends.append(parameter)
    assert torch.equal(*ends)
