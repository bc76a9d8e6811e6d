"""Finding what a command is about when it is not named: the newest run or bundle, a recipe that ships."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from edgemtl.core.errors import DataError, UsageError, nearest

RUNS = Path("runs")
_MARKERS = {"run": "env.json", "bundle": "manifest.json"}
_WRITTEN = ("env.json", "state.pt", "summary.json", "manifest.json")  # training goes on in an older run
_VERBS = {"run": "train", "bundle": "export"}


def newest(what: Literal["run", "bundle"], root: Path = RUNS) -> Path:
    """The run or bundle under ``root`` that was written last. One inside another, such as a run's twin, is
    part of that one.

    Raises:
        DataError: there is none.
    """
    marked = {path.parent: path for path in root.rglob(_MARKERS[what])}
    # Drafts that a killed process left are hidden.
    found = [
        path
        for folder, path in marked.items()
        if marked.keys().isdisjoint(folder.parents)
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]
    if not found:
        raise DataError(
            root, expected=f"a {what}", found="none", fix=f"Name one, or run `edgemtl {_VERBS[what]}`."
        )
    return max((path.parent for path in found), key=_written)


def _written(folder: Path) -> int:
    return max(path.stat().st_mtime_ns for name in _WRITTEN if (path := folder / name).is_file())


def recipes() -> dict[str, Path]:
    """The recipes that ship with edgemtl, by name: those of the checkout, or else where pip put them."""
    here = Path(__file__).resolve().parents[2] / "recipes"
    found = here.glob("*.yaml") if here.is_dir() else _installed("share/edgemtl/recipes/")
    return {path.stem: path for path in sorted(found)}


def _installed(folder: str) -> list[Path]:
    """The files that pip keeps in a folder of its data, which lies elsewhere with each way to install."""
    from importlib import metadata

    try:
        files = metadata.files("edgemtl") or []
    except metadata.PackageNotFoundError:
        return []
    return [Path(str(file.locate())).resolve() for file in files if folder in file.as_posix()]


def find_recipe(name: str) -> Path:
    """A recipe by its path, or by the name of one that ships.

    Raises:
        UsageError: there is none.
    """
    if Path(name).is_file():
        return Path(name)
    if (Path(name) / _MARKERS["run"]).is_file():
        raise UsageError(
            name,
            expected="a recipe",
            found="a run",
            fix="Name its recipe.yaml; `train RUN --resume` goes on.",
        )
    shipped = recipes()
    if name not in shipped:
        raise UsageError(
            name,
            expected="a recipe file or the name of a recipe that ships",
            found="none",
            fix=nearest(name, shipped),
        )
    return shipped[name]
