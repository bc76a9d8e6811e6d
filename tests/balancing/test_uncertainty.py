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
