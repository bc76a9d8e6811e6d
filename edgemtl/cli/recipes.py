"""`edgemtl recipes` and `edgemtl data`: what ships, what a recipe says, and what is in its data."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from edgemtl.cli.arguments import Json, Overrides, RecipeName
from edgemtl.cli.output import show
from edgemtl.core.errors import UsageError
from edgemtl.core.files import replacing
from edgemtl.core.locate import find_recipe, recipes

recipes_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List, copy and check recipes.")
data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Check datasets.")


@recipes_app.command("ls")
def recipes_ls() -> None:
    """List the recipes that ship."""
    for name, path in recipes().items():
        typer.echo(f"{name:20} {path.read_text().partition(chr(10))[0].lstrip('# ')}")


@recipes_app.command("cp")
def recipes_cp(name: str, destination: Path) -> None:
    """Copy a recipe, to change it."""
    source = find_recipe(name)
    target = destination / source.name if destination.is_dir() else destination
    if target.exists():
        raise UsageError(
            target, expected="no such file yet", found="one", fix="Name another, or remove this one."
        )
    with replacing(target) as draft:
        shutil.copyfile(source, draft)
    typer.echo(str(target))


@recipes_app.command("check")
def recipes_check(recipe: RecipeName, overrides: Overrides = None) -> None:
    """Check names and values, and print all of them, defaults too; `train --dry-run` checks the rest."""
    from edgemtl.build import build_model
    from edgemtl.recipe import dump, load

    loaded = load(find_recipe(recipe), overrides or ())
    build_model(loaded)
    typer.echo(dump(loaded), nl=False)


@data_app.command("check")
def data_check(
    recipe: RecipeName,
    overrides: Overrides = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Images of each split. Default: all.")] = None,
    as_json: Json = False,
) -> None:
    """Read every sample of a recipe's data and say what is in it."""
    from edgemtl import workflow
    from edgemtl.recipe import load

    show(*workflow.check_data(load(find_recipe(recipe), overrides or ()), limit), as_json=as_json)
