from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from torchjd.scalarization import UW

from edgemtl.balancing import Uncertainty

TASKS = ("segmentation", "depth", "normals")


def test_the_sum_is_that_of_torchjd_and_so_are_its_gradients() -> None:
    ours, theirs = Uncertainty().build(TASKS), UW(len(TASKS))
    log_variance = torch.tensor([-0.5, 0.1, 2.0])
    with torch.no_grad():
        theirs.log_var.copy_(log_variance)
        for parameter, value in zip(ours.parameters(), log_variance, strict=True):
            parameter.copy_(value)
    values = [torch.tensor([3.0, 0.2, 1.0], requires_grad=True) for _ in range(2)]
    found = sum(ours(dict(zip(TASKS, values[0], strict=True))).values())
    expected = theirs(values[1])
    torch.testing.assert_close(found, expected)
    found.backward()
    expected.backward()
    torch.testing.assert_close(values[0].grad, values[1].grad)
    torch.testing.assert_close(torch.stack([p.grad for p in ours.parameters()]), theirs.log_var.grad)


def test_it_settles_where_tasks_count_by_the_relative_change_of_their_losses() -> None:
    balancer = Uncertainty().build(TASKS)
    losses = {"segmentation": torch.tensor(4.0), "depth": torch.tensor(0.25), "normals": torch.tensor(1.0)}
    optimizer = torch.optim.SGD(balancer.parameters(), lr=0.5)
    for _ in range(100):
        sum(balancer(losses).values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    settled = [log_variance.item() for log_variance in balancer.parameters()]
    assert settled == pytest.approx([math.log(loss) for loss in losses.values()], abs=1e-3)


def test_weights_say_what_counts_more_wherever_the_losses_lie() -> None:
    plain = Uncertainty().build(TASKS)
    weighted = Uncertainty(weights={"normals": 2, "depth": 0.5}).build(TASKS)
    losses = {task: torch.tensor(loss) for task, loss in zip(TASKS, (4.0, 0.25, 1.0), strict=True)}
    expected = plain(losses)
    found = weighted(losses)
    assert found == {
        "segmentation": expected["segmentation"],
        "depth": 0.5 * expected["depth"],
        "normals": 2 * expected["normals"],
    }


def test_a_weight_moves_no_log_variance_from_where_it_settles() -> None:
    balancer = Uncertainty(weights={"normals": 3}).build(TASKS)
    losses = {task: torch.tensor(loss) for task, loss in zip(TASKS, (4.0, 0.25, 1.0), strict=True)}
    with torch.no_grad():
        for log_variance, loss in zip(balancer.parameters(), losses.values(), strict=True):
            log_variance.fill_(loss.log())
    sum(balancer(losses).values()).backward()
    assert [log_variance.grad.item() for log_variance in balancer.parameters()] == pytest.approx([0, 0, 0])
