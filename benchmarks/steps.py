"""What does overparameterization cost in training? A step with factorized kernels against a plain one.

A step is whole: compose the kernels, forward, losses, backward, optimizer. Rivals have the same network,
batch, tasks, precision and optimizer, and are built and run by the code that trains; they differ in the
kernel method and the update strategy alone. The batch is random and already in memory, so loading data has
no part in it. Memory is the peak of a process of its own that builds the network and makes two steps.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import msgspec
import torch
from harness import Finding, Outcome, interleave, main

from edgemtl import recipe as recipes
from edgemtl.core.malloc import keep_freed_memory
from edgemtl.data import Batch
from edgemtl.recipe import Recipe
from edgemtl.run import build_model
from edgemtl.training.objective import Objective
from edgemtl.training.steps import UPDATES

FOLDER = Path(__file__).parent.parent / "recipes"
CLASSES = 13
PLAIN, JOINT, ROUTED = "plain joint", "factorized joint", "factorized routed"
RIVALS = {
    PLAIN: ("kernel=plain", "training.update=joint"),
    JOINT: ("kernel=factorized", "training.update=joint"),
    ROUTED: ("kernel=factorized", "training.update=routed"),
}


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """A recipe, the shape of its batch (``size`` is (height, width)) and the targets of issue 2."""

    recipe: str
    overrides: tuple[str, ...] = ()
    size: tuple[int, int]
    batch: int
    rounds: int
    joint_at_most: float
    routed_at_most: float = 2.5


SEGNET = Setting(recipe="nyuv2_segnet", size=(288, 384), batch=4, rounds=5, joint_at_most=1.10)
COMPACT = Setting(recipe="nyuv2_compact", size=(72, 96), batch=16, rounds=40, joint_at_most=1.5)
QUICK = (
    msgspec.structs.replace(
        SEGNET, overrides=("backbone.widths=[16,32,64,64,64]",), size=(96, 128), batch=2, rounds=5
    ),
    msgspec.structs.replace(COMPACT, batch=4, rounds=10),
)


def measure(quick: bool) -> Outcome:
    """Time and memory of the rivals in every setting."""
    settings = QUICK if quick else (COMPACT, SEGNET)
    findings: list[Finding] = []
    raw: dict[str, object] = {}
    for setting in settings:
        rivals = {name: stepper(setting, name) for name in RIVALS}
        contest = interleave(setting.recipe, rivals, rounds=setting.rounds)
        findings += [
            contest.ratio(JOINT, PLAIN, at_most=setting.joint_at_most),
            contest.ratio(ROUTED, PLAIN, at_most=setting.routed_at_most),
        ]
        del rivals
        raw[setting.recipe] = {
            "median_ms": contest.medians_ms,
            "peak_memory_mib": {name: alone(setting, name) for name in RIVALS},
        }
    shapes = {setting.recipe: setting for setting in settings}
    return Outcome(settings={"threads": torch.get_num_threads(), **shapes}, findings=findings, raw=raw)


def stepper(setting: Setting, rival: str) -> Callable[[], None]:
    """A training step of a rival, always on the same batch."""
    recipe = recipes.load(FOLDER / f"{setting.recipe}.yaml", [*setting.overrides, *RIVALS[rival]])
    keep_freed_memory()  # as the trainer does
    model = build_model(recipe).train()
    objective = Objective(model, recipe.balancing.build(tuple(recipe.tasks)))
    optimizer = objective.optimizer(recipe.training.optimizer)
    update, batch = UPDATES[recipe.training.update], random_batch(recipe, setting)

    def step() -> None:
        for _ in update(objective, batch):
            optimizer.step()
            optimizer.zero_grad()

    return step


def random_batch(recipe: Recipe, setting: Setting) -> Batch:
    """Images and labels of the shapes that NYUv2 has, every pixel labeled."""
    generator = torch.Generator().manual_seed(recipe.seed)
    shape = (setting.batch, 3, *setting.size)
    normals = torch.randn(shape, generator=generator)
    labels = {
        "segmentation": torch.randint(CLASSES, (setting.batch, *setting.size), generator=generator),
        "depth": 1 + torch.rand(setting.batch, 1, *setting.size, generator=generator),
        "normals": normals / normals.norm(dim=1, keepdim=True),
    }
    ids = tuple(str(index) for index in range(setting.batch))
    return Batch(ids, torch.rand(shape, generator=generator), labels)


def alone(setting: Setting, rival: str) -> float:
    """The peak memory, in MiB, of a fresh process that builds a rival and makes two steps."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak_mib, setting, rival).result()


def _peak_mib(setting: Setting, rival: str) -> float:
    step = stepper(setting, rival)
    for _ in range(2):
        step()
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


if __name__ == "__main__":
    main(__doc__, measure)
