"""Every recipe that ships decodes, builds and learns for a step."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import msgspec

from edgemtl.build import build_model
from edgemtl.core.locate import recipes
from edgemtl.data import Batch
from edgemtl.data.loader import train_batches
from edgemtl.launch import open_splits
from edgemtl.recipe import Recipe, dump, load, parse
from edgemtl.training.objective import Objective
from edgemtl.training.steps import UPDATES

# Overrides that leave the shape of a network alone but let a step take seconds on a CPU.
SMALLER = {"nyuv2_segnet": ["backbone.widths=[8, 16, 32, 64, 64]"]}


@pytest.fixture(params=recipes())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def first_batch(recipe: Recipe, count: int = 2) -> tuple[Recipe, Batch]:
    recipe, splits = open_splits(recipe)
    return recipe, next(train_batches(splits.train, splits.augment, batch=count, epochs=1, seed=recipe.seed))


def test_a_recipe_says_in_its_first_line_what_it_is_for(name: str) -> None:
    first = recipes()[name].read_text().splitlines()[0]
    assert first.startswith("# ")
    assert 20 < len(first) < 110


def test_a_recipe_reads_back_from_what_it_resolves_to(name: str) -> None:
    recipe = load(recipes()[name])
    assert recipe.name == name
    (again,) = [msgspec.yaml.decode(dump(recipe))]
    assert parse(again) == recipe


def test_a_recipe_builds_and_runs_a_step(name: str, nyuv2_root: Path) -> None:
    overrides = [*SMALLER.get(name, []), "training.batch=2"]
    if name.startswith("nyuv2"):
        overrides.append(f"data.root={nyuv2_root}")
    recipe, batch = first_batch(load(recipes()[name], overrides))
    model = build_model(recipe)
    objective = Objective(model, recipe.balancing.build(tuple(recipe.tasks)))
    optimizer = objective.optimizer(recipe.training.optimizer)
    before = [parameter.detach().clone() for parameter in objective.trained]
    for losses in UPDATES[recipe.training.update](objective, batch):
        assert all(loss.isfinite() for loss in losses.values())
        optimizer.step()
        optimizer.zero_grad()
    assert all(
        not torch.equal(a, b) for a, b in zip(before, objective.trained, strict=True) if a.numel() > 64
    )
