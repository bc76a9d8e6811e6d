"""The smallest recipe that has everything: three tasks, factorized kernels, a forked plan, real scenes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from edgemtl.recipe import Recipe, parse

TREE: dict[str, Any] = {
    "name": "tiny",
    "data": {"type": "scenes", "size": [16, 24], "train": 16, "val": 4, "video": 2, "sequence": 6},
    "backbone": {"type": "segnet", "widths": [4, 6], "convs": [1, 1]},
    "tasks": {"segmentation": {"classes": 13}, "depth": {}, "normals": {}},
    "plan": {"forks": {"decoder1": [["depth"], ["segmentation", "normals"]]}},
    "kernel": "factorized",
    "training": {"epochs": 3, "batch": 4, "workers": 0, "accelerator": "cpu", "optimizer": {"lr": 0.01}},
}


def tiny(*overrides: str) -> Recipe:
    """The recipe, changed."""
    return parse(yaml.safe_load(yaml.safe_dump(TREE)), overrides)


def two_tasks(*overrides: str) -> Recipe:
    """The recipe for two epochs and without normals, which so short a training leaves at a within_11 of 0: no
    relative gain has that for a base."""
    tasks = ["tasks={segmentation: {classes: 13}, depth: {}}", "plan.forks={decoder1: each}"]
    return tiny(*tasks, "training.epochs=2", *overrides)


def as_yaml(**changes: Any) -> str:
    """The recipe as a file's text, with some top-level keys replaced."""
    return yaml.safe_dump({**TREE, **changes}, sort_keys=False)


def without(keys: Sequence[str]) -> str:
    """The recipe as a file's text, lacking some top-level keys."""
    return yaml.safe_dump({key: value for key, value in TREE.items() if key not in keys}, sort_keys=False)
