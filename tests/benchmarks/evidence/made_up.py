"""A small grid and made-up runs of it, whose gains can be computed by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from grid import Grid, Job
from records import Cost, Failed, Finished, Made, Outcome, path_of, read_all, write

from edgemtl.core.report import MetricInfo

METRICS = {
    "depth": (MetricInfo("abs", "m", False), MetricInfo("rmse", "m", False, in_delta=False)),
    "segmentation": (MetricInfo("miou", "1", True), MetricInfo("accuracy", "1", True)),
}
TREE: dict[str, Any] = {
    "name": "made_up",
    "recipe": "scenes_quickstart",
    "epochs": 2,
    "common": [
        "data={type: scenes, size: [16, 24], train: 16, val: 4}",
        "backbone={type: segnet, widths: [4, 6], convs: [1, 1]}",
        "training.batch=8",
        "training.workers=0",
        "training.accelerator=cpu",
    ],
    "selection": {"rates": [0.003, 0.01], "epochs": 1, "split": "val", "overrides": []},
    "twins": {
        "depth": ["tasks=[depth]", "kernel=plain"],
        "segmentation": ["tasks={segmentation: {classes: 13}}", "kernel=plain"],
    },
    "methods": {
        "plain": {"overrides": ["kernel=plain"]},
        "factorized": {"overrides": ["kernel=factorized"], "lr_scales": [0.3, 1]},
    },
    "balancing": {"equal": ["balancing=fixed"]},
    "rounds": [{"cells": ["*"], "seeds": [0, 1, 2]}],
}


def made_up(**changes: Any) -> Grid:
    """The grid, with some keys replaced."""
    return msgspec.convert({**TREE, **changes}, Grid)


def tuned(**changes: Any) -> Grid:
    """The grid with one rate, so that nothing is to be chosen."""
    methods = {name: {"overrides": spec["overrides"]} for name, spec in TREE["methods"].items()}
    selection = {**TREE["selection"], "rates": [0.01]}
    return made_up(**{"methods": methods, "selection": selection, **changes})


def scores(
    depth: float, miou: float, accuracy: float = 0.5, rmse: float = 1.0
) -> dict[str, dict[str, float]]:
    return {"depth": {"abs": depth, "rmse": rmse}, "segmentation": {"miou": miou, "accuracy": accuracy}}


def finished(
    job: Job, grid: Grid, table: Mapping[str, Mapping[str, float]], *, step_ms: float = 10.0
) -> Finished:
    tasks = [task for task in METRICS if job.cell in (f"twin_{task}", f"small-twin_{task}")] or list(METRICS)
    return Finished(
        name=job.name,
        recipe=grid.recipe,
        overrides=job.overrides,
        seed=job.seed,
        recipe_sha256="",
        split=job.split,
        images=4,
        scores={task: dict(table[task]) for task in tasks},
        metrics={task: METRICS[task] for task in tasks},
        worst={"fp32": 1e-7},
        cost=Cost(
            train_s=100.0,
            step_ms=step_ms,
            peak_rss_mib=500.0,
            peak_device_mib=None,
            parameters=(2000, 1000),
            macs=(5000, 4000),
        ),
        made=Made(platform="here", processes=1, threads=1, versions={}),
    )


def record(grid: Grid, outcome: Outcome) -> None:
    """Put a run among the results."""
    write(path_of(grid.name, outcome.name), outcome)


def record_all(grid: Grid, tables: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Record these jobs as finished, one by one: rates that are chosen make others ready."""
    for name, table in tables.items():
        job = next(job for job in grid.jobs(read_all(grid.name)) if job.name == name)
        record(grid, finished(job, grid, table))


def failed(job: Job, grid: Grid) -> Failed:
    return Failed(name=job.name, recipe=grid.recipe, overrides=job.overrides, error="a loss is not finite")
