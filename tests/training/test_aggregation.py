from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import msgspec
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor
from torchjd.aggregation import AlignedMTL, PCGrad

from edgemtl import workflow
from edgemtl.core.errors import SetupError, UsageError
from edgemtl.training.aggregation import aggregate, equally, gramian, weighing
from edgemtl.training.spec import Training
from tests.tiny import tiny

NAMES = get_args(next(f.type for f in msgspec.structs.fields(Training) if f.name == "aggregation"))
Row = list[Tensor | None]


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    if request.param == "upgrad":
        pytest.importorskip("quadprog", reason="upgrad's solver is opt-in")
        pytest.importorskip("qpsolvers", reason="upgrad's solver is opt-in")
    return str(request.param)


def rows(tasks: int = 3, seed: int = 0) -> list[Row]:
    """Gradients that are in conflict: of two tensors where all tasks meet."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(tasks, 10, generator=generator)
    return [[row[:6].view(2, 3), row[6:]] for row in found]


def flat(row: Row) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in row])


def jacobian(of: list[Row]) -> Tensor:
    return torch.stack([flat(row) for row in of])


def test_the_sum_is_the_sum() -> None:
    torch.testing.assert_close(flat(aggregate(rows(), weighing("sum", 3))), jacobian(rows()).sum(0))


def test_pcgrad_takes_from_each_gradient_its_part_against_the_other() -> None:
    a, b = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([-2.0, 0.5, 3.0])
    assert a @ b < 0
    (found,) = aggregate([[a], [b]], weighing("pcgrad", 2))
    torch.testing.assert_close(found, (a - a @ b / (b @ b) * b) + (b - a @ b / (a @ a) * a))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "name, reference",
    [("pcgrad", PCGrad()), ("aligned", AlignedMTL(torch.ones(4, dtype=torch.float64)))],
    ids=["pcgrad", "aligned"],
)
def test_the_aggregate_is_that_of_torchjd(
    name: str, reference: Callable[[Tensor], Tensor], seed: int
) -> None:
    given = rows(4, seed)
    torch.manual_seed(seed)  # pcgrad takes the tasks in a random order
    found = aggregate(given, weighing(name, 4))
    torch.manual_seed(seed)
    torch.testing.assert_close(flat(found), reference(jacobian(given).double()).float())


def test_where_gradients_are_orthogonal_and_of_one_length_every_method_is_the_sum(name: str) -> None:
    orthogonal = torch.linalg.qr(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))[0].T
    (found,) = aggregate([[row] for row in 1e-4 * orthogonal], weighing(name, 3))
    torch.testing.assert_close(found, 1e-4 * orthogonal.sum(0))


def test_the_scale_of_all_gradients_does_not_matter(name: str) -> None:
    weights = []
    for scale in (1e-8, 1.0, 65536.0):
        torch.manual_seed(0)
        weights.append(weighing(name, 3)([[scale * gradient for gradient in row] for row in rows()]))
    assert weights[0] == pytest.approx(weights[1], rel=1e-4)
    assert weights[2] == pytest.approx(weights[1], rel=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_tasks_does_not_matter(name: str, seed: int) -> None:
    tasks = 2 if name == "pcgrad" else 4  # with more tasks its order is random
    weights = weighing(name, tasks)(rows(tasks, seed))
    assert weighing(name, tasks)(rows(tasks, seed)[::-1]) == pytest.approx(weights[::-1], rel=1e-4)


def test_what_one_task_alone_reaches_keeps_that_task_s_gradient_and_has_no_say(name: str) -> None:
    head = torch.tensor([100.0, -100.0])
    first, *others = rows()
    torch.manual_seed(0)
    *shared, of_head, of_none = aggregate(
        [[*first, head, None], *([*row, None, None] for row in others)], weighing(name, 3)
    )
    torch.manual_seed(0)
    torch.testing.assert_close(shared, aggregate(rows(), weighing(name, 3)))
    assert of_head is head
    assert of_none is None


def test_a_task_that_does_not_reach_a_tensor_counts_with_zeros_there(name: str) -> None:
    def found(missing: Tensor | None) -> list[Tensor | None]:
        torch.manual_seed(0)
        first, *others = rows()
        return aggregate([[first[0], missing], *others], weighing(name, 3))

    torch.testing.assert_close(found(None), found(torch.zeros(4)))


@pytest.mark.parametrize("value", [0.0, float("inf"), float("nan")])
def test_without_finite_directions_to_compare_it_is_the_sum(name: str, value: float) -> None:
    given = [[torch.full((3,), value)], [torch.full((3,), value)]]
    (found,) = aggregate(given, weighing(name, 2))
    torch.testing.assert_close(found, 2 * given[0][0], equal_nan=True)


def test_a_task_alone_is_left_as_it_is(name: str) -> None:
    (row,) = rows(1)
    assert aggregate([row], weighing(name, 1)) == row


def test_processes_find_the_weights_of_the_gradients_of_the_whole_batch(name: str) -> None:
    here, there = rows(seed=1), rows(seed=2)
    others = iter([torch.stack(column).flatten(1) for column in zip(*there, strict=True)])
    torch.manual_seed(0)
    found = weighing(name, 3, lambda tensor: tensor + next(others, 0))(here)
    torch.manual_seed(0)
    whole = [[a + b for a, b in zip(*pair, strict=True)] for pair in zip(here, there, strict=True)]
    assert found == pytest.approx(weighing(name, 3)(whole), rel=1e-4)


def test_the_gramian_is_that_of_the_jacobian() -> None:
    columns = list(zip(*rows(), strict=True))
    expected = jacobian(rows()).double() @ jacobian(rows()).double().T
    torch.testing.assert_close(gramian(columns, lambda tensor: tensor), expected, rtol=1e-5, atol=1e-6)


def test_equal_weights_are_1() -> None:
    assert equally(rows()) == [1.0, 1.0, 1.0]


def test_upgrad_never_goes_against_a_task() -> None:
    pytest.importorskip("quadprog", reason="upgrad's solver is opt-in")
    pytest.importorskip("qpsolvers", reason="upgrad's solver is opt-in")
    for seed in range(5):
        given = rows(4, seed)
        along = jacobian(given) @ flat(aggregate(given, weighing("upgrad", 4)))
        assert (along > -1e-2).all()  # the solver's regularization leaves a little


def test_a_missing_solver_is_named_with_its_install_line_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "quadprog", None)
    recipe = tiny("training.update=routed", "training.aggregation=upgrad")
    with pytest.raises(SetupError, match=r'GPL.*pip install "torchjd\[quadprog_projector\]"'):
        workflow.train(recipe, tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("update", ["joint", "alternating"])
def test_only_a_routed_update_has_gradients_to_aggregate(update: str) -> None:
    with pytest.raises(UsageError, match=rf"aggregation: expected sum with update: {update}.*routed"):
        tiny(f"training.update={update}", "training.aggregation=pcgrad")
