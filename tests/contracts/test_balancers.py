"""What every balancer promises, for each member of BalancingSpec."""

from __future__ import annotations

from typing import get_args

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor

from edgemtl.balancing import Balancing, BalancingSpec, Fixed
from edgemtl.core.errors import RecipeError

TASKS = ("segmentation", "depth", "normals")
EXAMPLES: dict[type[Balancing], Balancing] = {Fixed: Fixed(weights={"depth": 0.5})}


@pytest.fixture(params=get_args(BalancingSpec) or [BalancingSpec], ids=lambda member: member.__name__)
def spec(request: pytest.FixtureRequest) -> Balancing:
    return EXAMPLES.get(request.param) or request.param()


def losses(*values: float) -> dict[str, Tensor]:
    return {task: torch.tensor(v, requires_grad=True) for task, v in zip(TASKS, values, strict=True)}


@pytest.mark.parametrize("values", [(1.0, 2.0, 3.0), (0.0, 0.0, 0.0), (1e-8, 1.0, 1e8)], ids=str)
def test_losses_and_gradients_are_finite(spec: Balancing, values: tuple[float, ...]) -> None:
    given = losses(*values)
    weighted = spec.build(TASKS)(given)
    assert list(weighted) == list(given)
    assert all(loss.shape == () and loss.isfinite() for loss in weighted.values())
    sum(weighted.values()).backward()
    assert all(loss.grad.isfinite() for loss in given.values())


def test_the_order_of_the_tasks_does_not_matter(spec: Balancing) -> None:
    given = losses(1.0, 2.0, 3.0)
    backwards = dict(reversed(given.items()))
    assert spec.build(TASKS)(given) == spec.build(TASKS[::-1])(backwards)


def test_what_it_learns_is_saved_and_resumed(spec: Balancing) -> None:
    balancer, resumed = spec.build(TASKS), spec.build(TASKS)
    with torch.no_grad():
        for parameter in balancer.parameters():
            parameter.uniform_(0.5, 1.5)
    resumed.load_state_dict(balancer.state_dict())
    given = losses(1.0, 2.0, 3.0)
    assert resumed(given) == balancer(given)


@pytest.mark.parametrize("spec", [Fixed(weights={"dpeth": 2.0})], ids=lambda spec: type(spec).__name__)
def test_a_task_that_is_not_there_is_refused(spec: Balancing) -> None:
    with pytest.raises(RecipeError, match=r"\$\.balancing\..*found `dpeth`. Did you mean `depth`\?"):
        spec.build(TASKS)
