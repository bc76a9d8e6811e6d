from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("yaml")
from grid import Candidate, outcome_of, read_grid

from edgemtl.core.errors import UsageError
from tests.benchmarks.evidence.made_up import TREE, failed, finished, made_up, scores, tuned

GRIDS = sorted((Path(__file__).parents[3] / "benchmarks" / "evidence" / "grids").glob("*.yaml"))
BAD, GOOD = scores(1.0, 0.1), scores(0.5, 0.3)


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_a_shipped_grid_makes_recipes_and_never_reads_the_test_set_to_choose(path: Path) -> None:
    pytest.importorskip("torch")
    from edgemtl.core.locate import find_recipe
    from edgemtl.recipe import load

    grid = read_grid(path)
    assert grid.name == path.stem
    jobs = grid.jobs({})
    for job in {job.cell: job for job in reversed(jobs)}.values():
        recipe = load(find_recipe(grid.recipe), [*job.overrides, "data.root=nowhere"])
        assert (job.split in recipe.data.splits) and (recipe.training.epochs == job.epochs)
    assert {job.split for job in jobs if job.stage == "select"} <= {"holdout"}  # none where one rate is given
    # The holdout is part of the training set of those runs alone that are scored on the test set.
    for job in jobs:
        assert any("holdout" in text for text in job.overrides) == (job.split == "holdout")


def test_rates_come_right_before_the_runs_that_wait_for_them() -> None:
    names = [job.name for job in made_up(rounds=[{"cells": ["plain-*", "*"], "seeds": [0]}]).jobs({})]
    assert names[:3] == ["select-plain-equal-lr0.003", "select-plain-equal-lr0.01", "plain-equal-s0"]
    assert [name for name in names if name.startswith("select-factorized")] == [
        f"select-factorized-equal-lr{rate}-x{scale}" for rate in (0.003, 0.01) for scale in (0.3, 1)
    ]
    assert len(names) == len(set(names))


def test_the_rate_is_that_of_the_best_candidate_that_did_not_fail() -> None:
    grid = made_up()
    cell = grid.cells["factorized-equal"]
    jobs = [job for job in grid.jobs({}) if job.cell == cell.name and job.stage == "select"]
    outcomes = {jobs[0].name: finished(jobs[0], grid, BAD), jobs[1].name: finished(jobs[1], grid, GOOD)}
    assert grid.chosen(cell, outcomes) is None, "two are not done yet"
    outcomes |= {job.name: failed(job, grid) for job in jobs[2:]}
    assert grid.chosen(cell, outcomes) == Candidate(0.003, 1)
    final = next(job for job in grid.jobs(outcomes) if job.name == "factorized-equal-s0")
    assert final.tuned
    assert final.overrides[-2:] == ("training.optimizer.lr=0.003", "kernel.lr_scale=1")


def test_a_cell_whose_every_candidate_failed_is_never_ready() -> None:
    grid = made_up()
    jobs = [job for job in grid.jobs({}) if job.name.startswith("select-plain")]
    outcomes = {job.name: failed(job, grid) for job in jobs}
    assert not next(job for job in grid.jobs(outcomes) if job.name == "plain-equal-s0").tuned


def test_a_run_with_other_overrides_is_another_run() -> None:
    grid, longer = tuned(), tuned(epochs=3)
    job = grid.jobs({})[0]
    outcomes = {job.name: finished(job, grid, GOOD)}
    assert outcome_of(job, grid.recipe, outcomes) is outcomes[job.name]
    (other,) = [each for each in longer.jobs({}) if each.name == job.name]
    assert outcome_of(other, longer.recipe, outcomes) is None
    assert grid.folder(job, Path()) != longer.folder(other, Path())


def test_sizes_and_extras_take_the_rate_of_the_cell_that_they_vary() -> None:
    grid = made_up(
        sizes={"small": {"overrides": ["backbone.widths=[2, 3]"], "cells": ["taught"]}},
        extras={"taught": {"like": "plain-equal", "overrides": ["training.distill=${twins}"]}},
    )
    cells = grid.cells
    assert {cells[name].rate_of for name in ("taught", "small-taught")} == {"plain-equal"}
    assert cells["small-taught"].overrides[-1] == "backbone.widths=[2, 3]"
    assert cells["small-taught"].plain == "small-plain-equal"
    assert not any(job.cell.startswith("small") for job in grid.jobs({}) if job.stage == "select")
    taught = next(job for job in grid.jobs({}) if job.name == "taught-s1")
    assert taught.needs == ("twin_depth-s1", "twin_segmentation-s1")


def test_an_extra_may_train_for_longer() -> None:
    grid = made_up(extras={"long": {"like": "plain-equal", "epochs": 6}})
    jobs = {job.name: job for job in grid.jobs({})}
    assert (jobs["long-s0"].epochs, jobs["plain-equal-s0"].epochs) == (6, grid.epochs)
    assert "training.epochs=6" in jobs["long-s0"].overrides
    assert grid.cells["long"].rate_of == "plain-equal"


@pytest.mark.parametrize(
    "changes",
    [
        {"rounds": [{"cells": ["plane-*"], "seeds": [0]}]},
        {"extras": {"more": {"like": "plane-equal", "overrides": []}}},
        {"sizes": {"small": {"overrides": [], "cells": ["plane-equal"]}}},
        {
            "extras": {"more": {"like": "plain-equal", "overrides": ["${twins}"]}},
            "rounds": [{"cells": ["more"], "seeds": [0]}],
        },
        {"epochs": 0},
        {"unknown": 1},
    ],
    ids=str,
)
def test_a_wrong_grid_is_refused(changes: dict[str, object], tmp_path: Path) -> None:
    import yaml

    (tmp_path / "grid.yaml").write_text(yaml.safe_dump({**TREE, **changes}))
    with pytest.raises(UsageError):
        read_grid(tmp_path / "grid.yaml")
