"""Twins: a run's network trained for each task alone, the rivals that sharing has to be measured against.

A twin is a run like any other, in RUN/twins/TASK: same backbone, data, budget, optimizer and seed. It has
nothing that belongs to several tasks or to a method: plain kernels, weight 1, no forks, joint updates, no
teachers. What is changed on the command line is changed for all.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from edgemtl.balancing import Fixed
from edgemtl.core.errors import DataError
from edgemtl.kernels import Plain
from edgemtl.recipe import Plan, Recipe
from edgemtl.run import Run

TWINS = "twins"


def twin_of(recipe: Recipe, task: str) -> Recipe:
    """The recipe of a task's twin."""
    return msgspec.structs.replace(
        recipe,
        name=f"{recipe.name}-{task}",
        tasks={task: recipe.tasks[task]},
        plan=Plan(),
        kernel=Plain(),
        balancing=Fixed(),
        training=msgspec.structs.replace(
            recipe.training, factor_optimizer=None, update="joint", aggregation="sum", distill=None
        ),
    )


def open_twins(path: Path, tasks: Iterable[str]) -> dict[str, Run]:
    """The twins of these tasks, in a folder of twins or in a run that has one.

    Raises:
        DataError: a task has no twin there, or one that is not finished.
    """
    folder = path / TWINS if (path / TWINS).is_dir() else path
    found = {}
    for task in tasks:
        if not (folder / task).is_dir():
            raise DataError(
                folder,
                expected=f"a twin for the task {task}",
                found="none",
                fix="Train them with `edgemtl train --twins`, or `train --resume RUN --twins`.",
            )
        found[task] = Run.open(folder / task)
        if not found[task].finished:
            raise DataError(
                folder / task,
                expected="a twin that is finished",
                found="one that was stopped",
                fix="Go on with `edgemtl train --resume RUN --twins`.",
            )
    return found
