from __future__ import annotations

import msgspec
import pytest

torch = pytest.importorskip("torch")

import torchjd.scalarization

from edgemtl.balancing import DWA

TASKS = ("segmentation", "depth", "normals")


def test_over_several_epochs_its_sum_is_that_of_torchjd() -> None:
    balancer, reference = DWA(temperature=0.7).build(TASKS), torchjd.scalarization.DWA(temperature=0.7)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        batches = torch.rand(4, len(TASKS), generator=generator)
        for batch in batches:
            found = sum(balancer(dict(zip(TASKS, batch, strict=True))).values())
            torch.testing.assert_close(found, reference(batch))
        reference.step()
        balancer.end_epoch(dict(zip(TASKS, batches.mean(0).tolist(), strict=True)))


def test_the_task_whose_loss_falls_slowest_counts_most_and_weights_add_up_to_the_tasks() -> None:
    balancer = DWA().build(TASKS)
    balancer.end_epoch({"segmentation": 2.0, "depth": 0.1, "normals": 1.0})
    balancer.end_epoch({"segmentation": 1.0, "depth": 0.09, "normals": 0.7})
    weights = balancer(dict.fromkeys(TASKS, torch.tensor(1.0)))
    assert weights["depth"] > weights["normals"] > weights["segmentation"]
    assert sum(weights.values()).item() == pytest.approx(3)


@pytest.mark.parametrize("temperature", [0, -1.0])
def test_a_temperature_is_above_0(temperature: float) -> None:
    with pytest.raises(msgspec.ValidationError, match="temperature"):
        msgspec.convert({"type": "dwa", "temperature": temperature}, DWA)


def test_a_task_without_labels_in_an_epoch_counts_as_one_that_stayed() -> None:
    found, stayed = (DWA().build(("a", "b")) for _ in range(2))
    for balancer, means in ((found, {"a": 0.5}), (stayed, {"a": 0.5, "b": 2.0})):
        balancer.end_epoch({"a": 1.0, "b": 2.0})
        balancer.end_epoch(means)
    assert torch.equal(found.weights, stayed.weights)
