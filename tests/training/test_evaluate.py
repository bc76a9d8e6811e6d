from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from edgemtl.core.errors import GateError
from edgemtl.data import Batch, Scenes
from edgemtl.data.loader import eval_batches
from edgemtl.tasks import Depth, Normals, Segmentation
from edgemtl.training.evaluate import evaluate, score

TASKS = {"segmentation": Segmentation(classes=13), "depth": Depth(), "normals": Normals()}


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    return list(eval_batches(Scenes(size=(24, 32), train=1, val=6).dataset("val"), batch=2))


def truth(batch: Batch) -> dict[str, torch.Tensor]:
    one_hot = torch.nn.functional.one_hot(batch.labels["segmentation"].clamp_min(0), 13)
    return {
        "segmentation": 100.0 * one_hot.movedim(-1, 1),
        "depth": batch.labels["depth"],
        "normals": batch.labels["normals"],
    }


def test_the_truth_scores_perfectly(batches: list[Batch]) -> None:
    answers = iter(batches)
    found = evaluate(lambda _: truth(next(answers)), TASKS, batches, losses=True)
    assert found.scores["segmentation"]["miou"] == 1
    assert found.scores["depth"]["abs"] == 0
    assert found.scores["normals"]["mean"] < 0.1
    assert found.losses == pytest.approx(dict.fromkeys(TASKS, 0), abs=1e-3)


def test_metrics_are_over_the_whole_set_however_it_is_cut(batches: list[Batch]) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = {
        task: torch.rand(
            13 if task == "segmentation" else 3 if task == "normals" else 1, 24, 32, generator=generator
        )
        for task in TASKS
    }

    def predict(image: torch.Tensor) -> dict[str, torch.Tensor]:
        return {task: value.expand(len(image), -1, -1, -1) for task, value in noise.items()}

    singles = [
        Batch(b.ids[i : i + 1], b.image[i : i + 1], {k: v[i : i + 1] for k, v in b.labels.items()})
        for b in batches
        for i in range(len(b.ids))
    ]
    together, apart = (evaluate(predict, TASKS, cut, losses=True) for cut in (batches, singles))
    assert together.losses.keys() == TASKS.keys()
    assert together.losses == pytest.approx(apart.losses)
    assert evaluate(predict, TASKS, batches) == (together.scores, {})
    for task, scores in together.scores.items():
        assert scores == pytest.approx(apart.scores[task])


def test_a_metric_that_no_pixel_defines_is_left_out(batches: list[Batch]) -> None:
    blind = [
        Batch(b.ids, b.image, {**b.labels, "depth": torch.zeros_like(b.labels["depth"])}) for b in batches
    ]
    answers = iter(blind)
    found = evaluate(lambda _: truth(next(answers)), TASKS, blind, losses=True)
    assert found.scores["depth"] == {}
    assert found.scores["segmentation"]["miou"] == 1
    assert set(found.losses) == set(TASKS) - {"depth"}


def test_a_metric_that_is_not_finite_is_told_to_who_searches_and_refused_for_a_report(
    batches: list[Batch],
) -> None:
    def overflown() -> Callable[[torch.Tensor], dict[str, torch.Tensor]]:
        answers = iter(batches)
        return lambda _: truth(batch := next(answers)) | {"depth": batch.labels["depth"] / 0}

    assert evaluate(overflown(), TASKS, batches).scores["depth"]["abs"] == float("inf")
    with pytest.raises(GateError, match="depth abs: expected a finite value, found inf"):
        score(overflown(), TASKS, batches)
