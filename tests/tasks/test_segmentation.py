from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from edgemtl.core.errors import DataError
from edgemtl.tasks import Segmentation


def scores(predicted: list[int], target: list[int], classes: int) -> dict[str, float]:
    logits = torch.nn.functional.one_hot(torch.tensor([[predicted]]), classes).movedim(-1, 1).float()
    meter = Segmentation(classes=classes).meter()
    meter.update(logits, torch.tensor([[target]]))
    return meter.compute()


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 3)), min_size=1).filter(
        lambda pairs: any(target >= 0 for _, target in pairs)
    )
)
def test_iou_by_its_definition(pairs: list[tuple[int, int]]) -> None:
    predicted, target = np.array(pairs).T
    labeled = target >= 0
    ious = []
    for c in range(4):
        either = labeled & ((predicted == c) | (target == c))
        if either.any():
            ious.append((labeled & (predicted == c) & (target == c)).sum() / either.sum())
    found = scores(predicted.tolist(), target.tolist(), classes=4)
    assert found["miou"] == pytest.approx(np.mean(ious))
    assert found["pixel_accuracy"] == pytest.approx((predicted == target)[labeled].mean())


def test_a_class_that_is_nowhere_is_left_out_and_one_that_is_made_up_counts_as_zero() -> None:
    assert scores([0, 1], [0, 1], classes=9)["miou"] == 1.0
    assert scores([0, 2], [0, 1], classes=9)["miou"] == pytest.approx(1 / 3)


def test_the_set_is_one_matrix_and_no_mean_of_images() -> None:
    meter = Segmentation(classes=2).meter()
    for predicted, target in ((0, 0), (1, 0), (1, 1), (1, 1)):
        logits = torch.tensor([1.0 - predicted, predicted]).reshape(1, 2, 1, 1)
        meter.update(logits, torch.full((1, 1, 1), target))
    assert meter.compute()["miou"] == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_cross_entropy_of_ignorance_is_log_of_the_classes() -> None:
    loss = Segmentation(classes=7).loss(torch.zeros(1, 7, 2, 2), torch.tensor([[[0, 6], [-1, 3]]]))
    assert loss.count == 3
    assert (loss.total / loss.count).item() == pytest.approx(np.log(7))


def test_names_are_the_recipes_or_made_up() -> None:
    assert Segmentation(classes=2, labels=("floor", "rest")).output.labels == ("floor", "rest")
    assert Segmentation(classes=2).output.labels == ("class_0", "class_1")


def test_the_dataset_names_what_the_recipe_does_not() -> None:
    task = Segmentation(classes=2)
    assert task.named(("floor", "rest")) == Segmentation(classes=2, labels=("floor", "rest"))
    assert task.named(("floor", "rest")).named(("a", "b")).labels == ("floor", "rest")


@pytest.mark.parametrize(
    ("recipe", "path"),
    [
        ({"classes": 1}, r"\$\.classes"),
        ({"classes": 3, "labels": ["floor", "rest"]}, "3 `labels`, one for each class, got 2"),
        ({}, "classes"),
    ],
)
def test_an_impossible_recipe_is_refused(recipe: dict[str, object], path: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=path):
        msgspec.convert({"type": "segmentation", **recipe}, Segmentation)


def test_a_label_with_other_classes_is_refused() -> None:
    task = Segmentation(classes=3, label="parts")
    task.check_label("classes", ("a", "b", "c"))
    with pytest.raises(DataError, match=r"label `parts`: expected the task's 3 classes, found 2: a, b\. Set"):
        task.check_label("classes", ("a", "b"))


def test_names_are_those_of_the_dataset_in_its_order() -> None:
    """Else a bundle that says `car` would mean `road`."""
    task = Segmentation(classes=2, labels=("road", "car"))
    task.check_label("classes", ("road", "car"))
    with pytest.raises(DataError, match=r"expected `road`, .* for class 0, found `car`\. Leave `labels` out"):
        task.check_label("classes", ("car", "road"))
    with pytest.raises(DataError, match="the task's 2 classes"):
        task.check_label("classes", ("road",))
