"""What every balancer promises, for each member of BalancingSpec."""

from __future__ import annotations

from typing import get_args

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor

from edgemtl.balancing import Balancer, Balancing, BalancingSpec, Fixed, Uncertainty
from edgemtl.core.errors import UsageError

TASKS = ("segmentation", "depth", "normals")
EXAMPLES: dict[type[Balancing], Balancing] = {
    Fixed: Fixed(weights={"depth": 0.5}),
    Uncertainty: Uncertainty(weights={"depth": 0.5}),
}


@pytest.fixture(params=get_args(BalancingSpec), ids=lambda member: member.__name__)
def spec(request: pytest.FixtureRequest) -> Balancing:
    return EXAMPLES.get(request.param) or request.param()


def losses(*values: float) -> dict[str, Tensor]:
    return {task: torch.tensor(v, requires_grad=True) for task, v in zip(TASKS, values, strict=True)}


def trained(spec: Balancing, tasks: tuple[str, ...] = TASKS, epochs: int = 3) -> Balancer:
    """A balancer that has learned and seen epochs end, each task's values being its own."""
    balancer = spec.build(tasks)
    with torch.no_grad():
        for parameter, task in zip(balancer.parameters(), tasks, strict=False):
            parameter.fill_(0.1 + TASKS.index(task))
    for epoch in range(1, epochs + 1):
        balancer.end_epoch({task: 1.0 / epoch ** TASKS.index(task) for task in tasks})
    return balancer


@pytest.mark.parametrize("values", [(1.0, 2.0, 3.0), (0.0, 0.0, 0.0), (1e-8, 1.0, 1e8)], ids=str)
@pytest.mark.parametrize("epochs", [0, 1, 3])
def test_losses_and_gradients_are_finite(spec: Balancing, values: tuple[float, ...], epochs: int) -> None:
    given = losses(*values)
    balancer = spec.build(TASKS)
    for _ in range(epochs):
        balancer.end_epoch(dict(zip(TASKS, values, strict=True)))
    weighted = balancer(given)
    assert list(weighted) == list(given)
    assert all(loss.shape == () and loss.isfinite() for loss in weighted.values())
    sum(weighted.values()).backward()
    assert all(loss.grad.isfinite() for loss in given.values())


def test_the_order_of_the_tasks_does_not_matter(spec: Balancing) -> None:
    given = losses(1.0, 2.0, 3.0)
    found = trained(spec)(given)
    backwards = trained(spec, TASKS[::-1])(dict(reversed(given.items())))
    for task in TASKS:
        torch.testing.assert_close(backwards[task], found[task])


def test_a_task_s_loss_is_weighed_alike_when_it_comes_alone(spec: Balancing) -> None:
    balancer, given = trained(spec), losses(1.0, 2.0, 3.0)
    assert balancer({"depth": given["depth"]})["depth"] == balancer(given)["depth"]


def test_no_task_s_weighted_loss_reaches_that_of_another(spec: Balancing) -> None:
    given = losses(1.0, 2.0, 3.0)
    trained(spec)(given)["depth"].backward()
    assert given["depth"].grad is not None
    assert given["segmentation"].grad is None
    assert given["normals"].grad is None


@pytest.mark.parametrize("epochs", [0, 1, 2])
def test_what_it_learns_is_saved_and_resumed(spec: Balancing, epochs: int) -> None:
    balancer, resumed = trained(spec, epochs=epochs), spec.build(TASKS)
    resumed.load_state_dict(balancer.state_dict())
    given = losses(1.0, 2.0, 3.0)
    for _ in range(2):
        assert resumed(given) == balancer(given)
        for either in (balancer, resumed):
            either.end_epoch({"segmentation": 1.0, "depth": 0.5, "normals": 2.0})


@pytest.mark.parametrize("member", [Fixed, Uncertainty])
def test_a_task_that_is_not_there_is_refused(member: type[Fixed | Uncertainty]) -> None:
    with pytest.raises(UsageError, match=r"\$\.balancing\..*found `dpeth`. Did you mean `depth`\?"):
        member(weights={"dpeth": 2.0}).build(TASKS)
