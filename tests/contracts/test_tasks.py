"""What every task promises, for each member of TaskSpec."""

from __future__ import annotations

from typing import get_args

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor
from torch.nn import functional as F

from edgemtl.core.bundle import Classes, Scalar
from edgemtl.core.errors import DataError
from edgemtl.tasks import Segmentation, Task, TaskSpec

SIZE = (9, 13)
WITH_FIELDS: dict[type[Task], Task] = {Segmentation: Segmentation(classes=5)}  # where a field has no default


@pytest.fixture(params=get_args(TaskSpec), ids=lambda member: member.__name__)
def task(request: pytest.FixtureRequest) -> Task:
    return WITH_FIELDS.get(request.param) or request.param()


def labels(task: Task, batch: int = 2, seed: int = 0) -> Tensor:
    """Random labels, about a third of the pixels invalid."""
    rng = torch.Generator().manual_seed(seed)
    valid = torch.rand(batch, 1, *SIZE, generator=rng) > 0.33
    if isinstance(task.output, Classes):
        classes = torch.randint(len(task.output.labels), (batch, *SIZE), generator=rng)
        return torch.where(valid[:, 0], classes, -1)
    if isinstance(task.output, Scalar):
        return valid * (0.5 + 9 * torch.rand(batch, 1, *SIZE, generator=rng))
    return valid * F.normalize(torch.randn(batch, 3, *SIZE, generator=rng), dim=1)


def invalid(task: Task, target: Tensor) -> Tensor:
    """bool [B, 1, H, W]."""
    if isinstance(task.output, Classes):
        return target[:, None] == -1
    return (target == 0).all(dim=1, keepdim=True)


def truth(task: Task, target: Tensor) -> Tensor:
    """The prediction that is right everywhere."""
    if isinstance(task.output, Classes):
        return 50.0 * F.one_hot(target.clamp(min=0), len(task.output.labels)).movedim(-1, 1)
    return target


def guess(task: Task, seed: int = 1) -> Tensor:
    """What a fresh head writes."""
    torch.manual_seed(seed)
    return task.head(8)(torch.randn(2, 8, 4, 5), SIZE)


def test_a_head_writes_what_the_output_says_at_the_size_of_the_image(task: Task) -> None:
    channels = {"classes": WITH_FIELDS[Segmentation].classes, "depth": 1, "normals": 3}[task.label_kind]
    assert guess(task).shape == (2, channels, *SIZE)


def test_every_parameter_of_the_head_learns(task: Task) -> None:
    torch.manual_seed(0)
    head = task.head(8)
    loss = task.loss(head(torch.randn(2, 8, *SIZE), SIZE), labels(task))
    (loss.total / loss.count).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in head.parameters())


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_loss_and_gradient_are_finite(task: Task, scale: float, dtype: torch.dtype) -> None:
    prediction = (scale * guess(task).detach()).to(dtype).requires_grad_()
    loss = task.loss(prediction, labels(task))
    loss.total.backward()
    assert loss.total.isfinite()
    assert prediction.grad.isfinite().all()


def test_no_prediction_beats_the_truth(task: Task) -> None:
    target = labels(task)
    perfect = task.loss(truth(task, target), target)
    assert perfect.total / perfect.count < 1e-6
    assert task.loss(guess(task), target).total > perfect.total


def test_the_truth_has_the_best_score(task: Task) -> None:
    target, meter = labels(task), task.meter()
    meter.update(truth(task, target), target)
    found = meter.compute()
    for info in task.metrics:
        # The median of angles is known to half a bin of its histogram.
        assert found[info.name] == pytest.approx(float(info.higher_is_better), abs=0.01)


def test_the_meter_computes_the_metrics_that_the_task_names(task: Task) -> None:
    meter = task.meter()
    meter.update(guess(task), labels(task))
    assert list(meter.compute()) == [info.name for info in task.metrics]


def test_invalid_pixels_count_for_nothing(task: Task) -> None:
    target, prediction = labels(task), guess(task).detach().requires_grad_()
    junk = torch.where(invalid(task, target), 7.0, prediction)
    assert torch.equal(task.loss(junk, target).total, task.loss(prediction, target).total)
    assert task.loss(prediction, target).count == (~invalid(task, target)).sum()
    task.loss(prediction, target).total.backward()
    assert (prediction.grad * invalid(task, target)).abs().sum() == 0
    meters = task.meter(), task.meter()
    meters[0].update(prediction, target)
    meters[1].update(junk, target)
    assert torch.equal(meters[0].state, meters[1].state)


def test_labels_without_a_valid_pixel_cost_nothing_and_score_nan(task: Task) -> None:
    nothing = torch.full_like(labels(task), -1 if isinstance(task.output, Classes) else 0)
    prediction = guess(task).detach().requires_grad_()
    loss = task.loss(prediction, nothing)
    loss.total.backward()
    assert loss.total == loss.count == prediction.grad.abs().sum() == 0
    meter = task.meter()
    meter.update(prediction, nothing)
    assert all(value != value for value in meter.compute().values())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_prediction_that_is_no_number_is_the_worst_there_is(task: Task, value: float) -> None:
    meter = task.meter()
    meter.update(torch.full_like(guess(task), value), labels(task))
    found = meter.compute()
    if isinstance(task.output, Classes):
        assert found == {"miou": 0, "pixel_accuracy": 0}
    elif isinstance(task.output, Scalar):
        assert set(found.values()) == {float("inf")}
    else:
        shares = {name: share for name, share in found.items() if name.startswith("within")}
        assert set(shares.values()) == {0}
        assert found["mean"] >= 90


def test_meters_merge_by_adding(task: Task) -> None:
    parts, whole = (task.meter(), task.meter()), task.meter()
    for seed, part in enumerate(parts):
        for meter in (part, whole):
            meter.update(guess(task, seed), labels(task, seed=seed))
    merged = task.meter()
    merged.state += parts[0].state + parts[1].state
    assert whole.state.dtype == torch.float64
    assert merged.compute() == pytest.approx(whole.compute(), rel=1e-12)


def test_a_loss_is_a_sum_over_the_samples(task: Task) -> None:
    prediction, target = guess(task).detach().double(), labels(task)
    both = task.loss(prediction, target)
    parts = [task.loss(prediction[i : i + 1], target[i : i + 1]) for i in range(2)]
    assert both.total.item() == pytest.approx(sum(part.total.item() for part in parts))
    assert both.count == sum(part.count for part in parts)


def test_a_label_of_another_kind_is_refused(task: Task) -> None:
    others = {"classes", "depth", "normals"} - {task.label_kind}
    for kind in others:
        with pytest.raises(DataError, match=f"expected {task.label_kind}.*found {kind}"):
            task.check_label(kind, ())


def test_the_protocol_counts_nine_metrics() -> None:
    members = [WITH_FIELDS.get(member) or member() for member in get_args(TaskSpec)]
    assert sum(info.in_delta for member in members for info in member.metrics) == 9
