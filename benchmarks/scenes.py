"""Are scenes fast enough to train on, and hard enough to learn something from?

Speed: images a second of the dataset on one core, and the share of a training step that is spent waiting for
the loader, from the run's own metrics. Difficulty: what a network gains over a predictor that answers every
image with the mean of the training labels at each pixel, and a wide network over a narrow one, after the
same short training and on the same validation scenes. Delta_m is the mean relative gain over all metrics in
percent, + for better; on a dataset that small networks saturate, width would gain nothing.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import torch
from harness import Finding, Outcome, judge, main
from torch import Tensor
from torch.nn import functional as F

from edgemtl import evaluation, workflow
from edgemtl import recipe as recipes
from edgemtl.core.delta_m import delta_m
from edgemtl.core.report import Scores
from edgemtl.data import Dataset
from edgemtl.data.loader import eval_batches
from edgemtl.launch import open_splits
from edgemtl.recipe import Recipe
from edgemtl.tasks import Task
from edgemtl.training.evaluate import Predict, evaluate

RECIPE = Path(__file__).parent.parent / "recipes" / "scenes_quickstart.yaml"
MEAN, NARROW, WIDE = "mean predictor", "widths 8 16 32 32", "widths 16 32 64 64"
WIDTHS = {NARROW: "backbone.widths=[8,16,32,32]", WIDE: "backbone.widths=[16,32,64,64]"}
FULL = ("kernel=plain", "data.val=200", "training.epochs=8")
QUICK = ("kernel=plain", "data.train=64", "data.val=16", "training.epochs=2")
IMAGES, ROUNDS = 50, 9  # of the measurement of speed


def measure(quick: bool) -> Outcome:
    """Render, then train the networks and compare them."""
    overrides = QUICK if quick else FULL
    recipe, splits = open_splits(recipes.load(RECIPE, overrides))
    rates = images_per_s(splits.train)
    mean = evaluate(mean_predictor(splits.train), recipe.tasks, eval_batches(splits.validation, batch=16))
    scores: dict[str, Scores] = {MEAN: mean.scores}
    waits: dict[str, list[float]] = {}
    for name, widths in WIDTHS.items():
        scores[name], waits[name] = learned(recipes.load(RECIPE, [*overrides, widths]))
    return Outcome(
        settings={"threads": torch.get_num_threads(), "recipe": recipe, "widths": list(WIDTHS)},
        findings=[
            judge("images/s on one core", statistics.median(rates), by_round=rates, at_least=100),
            *(
                judge(f"share of a step waiting: {name}", statistics.mean(shares), at_most=0.05)
                for name, shares in waits.items()
            ),
            *difficulty(recipe.tasks, scores),
        ],
        raw={"scores": scores, "wait_share_by_epoch": waits, "images_per_s_by_round": rates},
    )


def learned(recipe: Recipe) -> tuple[Scores, list[float]]:
    """What a network scores after its training, and the share of each epoch in which it waited for data."""
    with tempfile.TemporaryDirectory() as folder:
        run = workflow.train(recipe, Path(folder) / "run")
        lines = (run.path / "metrics.jsonl").read_text().splitlines()
        return evaluation.evaluate(run.path).tasks, [json.loads(line)["wait_share"] for line in lines]


def difficulty(tasks: Mapping[str, Task], scores: Mapping[str, Scores]) -> Iterator[Finding]:
    """The first metric of each task for all predictors, and the gains of one over another."""
    metrics = {name: task.metrics for name, task in tasks.items()}
    for task, (first, *_) in metrics.items():
        for name, table in scores.items():
            yield judge(f"{task} {first.name} in {first.unit}: {name}", table[task][first.name])
    for name, base in ((NARROW, MEAN), (WIDE, MEAN), (WIDE, NARROW)):
        gain, _ = delta_m(scores[name], scores[base], metrics)
        yield judge(f"Delta_m in %: {name} over {base}", gain)


def images_per_s(dataset: Dataset) -> list[float]:
    """Images a second in every round, each over images of its own."""
    rates = []
    with one_core():
        for turn in range(ROUNDS):
            start = perf_counter()
            for index in range(turn * IMAGES, (turn + 1) * IMAGES):
                dataset[index % len(dataset)]
            rates.append(IMAGES / (perf_counter() - start))
    return rates


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this thread on one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def mean_predictor(dataset: Dataset) -> Predict:
    """Answers every image alike: by pixel, the frequency of each class, the mean depth and normal."""
    sums: dict[str, Tensor] = {}
    for index in range(len(dataset)):
        labels = dataset[index].labels
        votes = F.one_hot(labels["segmentation"], len(dataset.labels["segmentation"].names)).movedim(-1, 0)
        for name, value in {**labels, "segmentation": votes}.items():
            sums[name] = sums[name] + value if name in sums else value
    means = {name: (total / len(dataset))[None] for name, total in sums.items()}
    return lambda image: {name: mean.expand(len(image), -1, -1, -1) for name, mean in means.items()}


if __name__ == "__main__":
    main(__doc__, measure)
