"""What does overparameterization cost in training? A step with each kernel method against a plain one.

A step is whole: compose the kernels, forward, losses, backward, optimizer. Rivals have the same network,
batch, tasks and optimizer, and are built and run by the code that trains; they differ in the kernel method
and the update strategy alone, and two of them in precision. The batch is random and already in memory, so
loading data has no part in it. Memory is the peak of a process of its own that builds the network and makes
two steps, the median of three of them. The profile says where the time of a joint step goes.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

import msgspec
import torch
from harness import Finding, Outcome, interleave, judge, main

from edgemtl import recipe as recipes
from edgemtl.build import build_model
from edgemtl.core.malloc import keep_freed_memory
from edgemtl.data import Batch
from edgemtl.kernels import composed
from edgemtl.recipe import Recipe
from edgemtl.training.objective import Objective
from edgemtl.training.steps import UPDATES, total

FOLDER = Path(__file__).parent.parent / "recipes"
CLASSES = 13
PLAIN, JOINT, ROUTED = "plain joint", "factorized joint", "factorized routed"
SPATIAL = "factorized joint, spatial"
RIVALS = {
    PLAIN: ("kernel=plain",),
    JOINT: ("kernel=factorized",),
    SPATIAL: ("kernel={type: factorized, matrix: spatial}",),
    ROUTED: ("kernel=factorized", "training.update=routed"),
    "doconv": ("kernel=doconv",),
    "residual": ("kernel=residual",),
    "expandnet": ("kernel=expandnet",),
    "repvgg": ("kernel=repvgg",),
    "acnet": ("kernel=acnet",),
    "dbb": ("kernel=dbb",),
    "mobileone": ("kernel=mobileone",),
    "plain bf16": ("kernel=plain", "training.precision=bf16"),
    "factorized bf16": ("kernel=factorized", "training.precision=bf16"),
}
IN_WEIGHT_SPACE = (JOINT, SPATIAL, "doconv", "residual", "expandnet")


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """A recipe, the shape of its batch (``size`` is (height, width)), who runs, and targets: ratios to plain
    that may not be exceeded.
    """

    recipe: str
    overrides: tuple[str, ...] = ()
    size: tuple[int, int]
    batch: int
    rounds: int
    rivals: tuple[str, ...] = tuple(RIVALS)
    at_most: dict[str, float]
    memory_at_most: float = 1.3


SEGNET = Setting(
    recipe="nyuv2_segnet",
    size=(288, 384),
    batch=4,
    rounds=15,
    rivals=(PLAIN, ROUTED, *IN_WEIGHT_SPACE),
    at_most={**dict.fromkeys(IN_WEIGHT_SPACE, 1.15), JOINT: 1.10, ROUTED: 2.5},
)
COMPACT = Setting(
    recipe="nyuv2_compact", size=(72, 96), batch=16, rounds=40, at_most={JOINT: 1.5, ROUTED: 2.5}
)
QUICK = (
    msgspec.structs.replace(
        SEGNET, overrides=("backbone.widths=[16,32,64,64,64]",), size=(96, 128), batch=2, rounds=3
    ),
    msgspec.structs.replace(COMPACT, batch=4, rounds=5),
)


def measure(quick: bool) -> Outcome:
    """Time and memory of the rivals in every setting, and the profile of their steps."""
    settings = QUICK if quick else (COMPACT, SEGNET)
    keep_freed_memory()  # as the trainer does
    findings: list[Finding] = []
    raw: dict[str, object] = {}
    for setting in settings:
        bouts = {name: Bout(setting, RIVALS[name]) for name in setting.rivals}
        contest = interleave(
            setting.recipe, {name: bout.step for name, bout in bouts.items()}, rounds=setting.rounds
        )
        findings += [
            contest.ratio(name, PLAIN, at_most=setting.at_most.get(name)) for name in setting.rivals[1:]
        ]
        profile = {name: bout.profile() for name, bout in bouts.items() if name != ROUTED}
        del bouts
        peaks_mib = {
            name: statistics.median(alone(setting, name) for _ in range(3)) for name in setting.rivals
        }
        findings += [
            judge(
                f"{setting.recipe}: peak memory, {name} / {PLAIN}",
                peaks_mib[name] / peaks_mib[PLAIN],
                at_most=setting.memory_at_most,
            )
            for name in IN_WEIGHT_SPACE
        ]
        raw[setting.recipe] = {
            "median_ms": contest.medians_ms,
            "peak_memory_mib": peaks_mib,
            "profile_ms": profile,
        }
    shapes = {setting.recipe: setting for setting in settings}
    return Outcome(settings={"threads": torch.get_num_threads(), **shapes}, findings=findings, raw=raw)


class Bout:
    """A rival with its network, always on the same batch. ``overrides`` of the recipe make it what it is."""

    def __init__(self, setting: Setting, overrides: Sequence[str]) -> None:
        recipe = recipes.load(FOLDER / f"{setting.recipe}.yaml", [*setting.overrides, *overrides])
        bf16, model = recipe.training.precision == "bf16", build_model(recipe).train()
        self.objective = Objective(
            model,
            recipe.balancing.build(tuple(recipe.tasks)),
            run=torch.compile(model.run) if recipe.training.compile else None,
            autocast=lambda: torch.autocast("cpu", torch.bfloat16, enabled=bf16),
        )
        self.optimizer = self.objective.optimizer(recipe.training.optimizer)
        self.update, self.batch = UPDATES[recipe.training.update], random_batch(recipe, setting)

    def step(self) -> None:
        """A training step, as the trainer makes it."""
        for _ in self.update(self.objective, self.batch):
            self.optimizer.step()
            self.optimizer.zero_grad()

    def profile(self, steps: int = 3) -> dict[str, float]:
        """Where the time of a joint step goes: the median milliseconds of each part."""
        parts: dict[str, list[float]] = {"compose": [], "forward": [], "backward": [], "optimizer": []}
        for _ in range(steps):
            times = [perf_counter()]
            with composed():
                self.objective.compose()
                times.append(perf_counter())
                _, balanced = self.objective.losses(self.batch)
                times.append(perf_counter())
                total(balanced).backward()
                times.append(perf_counter())
            self.optimizer.step()
            self.optimizer.zero_grad()
            times.append(perf_counter())
            for part, (start, end) in zip(parts.values(), pairwise(times), strict=True):
                part.append((end - start) * 1e3)
        return {name: statistics.median(values) for name, values in parts.items()}


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
    keep_freed_memory()
    bout = Bout(setting, RIVALS[rival])
    for _ in range(2):
        bout.step()
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


if __name__ == "__main__":
    main(__doc__, measure)
