from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgemtl.core.errors import DataError, UsageError
from edgemtl.core.locate import find_recipe, newest, recipes

MARKERS = {"run": "env.json", "bundle": "manifest.json"}


@pytest.fixture(params=MARKERS)
def what(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make(folder: Path, what: str, age_s: int) -> Path:
    folder.mkdir(parents=True)
    marker = folder / MARKERS[what]
    marker.touch()
    os.utime(marker, (1e9 - age_s, 1e9 - age_s))
    return folder


def test_the_newest_is_the_one_written_last(tmp_path: Path, what: str) -> None:
    make(tmp_path / "a", what, age_s=2)
    last = make(tmp_path / "b" / "deeper", what, age_s=1)
    make(tmp_path / "c", what, age_s=3)
    other = next(kind for kind in MARKERS if kind != what)
    make(tmp_path / "d", other, age_s=0)
    assert newest(what, tmp_path) == last


def test_drafts_are_passed_over_but_not_for_a_hidden_root(tmp_path: Path, what: str) -> None:
    root = tmp_path / ".cache" / "runs"
    whole = make(root / "a", what, age_s=1)
    make(root / ".a.123.part", what, age_s=0)
    assert newest(what, root) == whole


def test_one_inside_another_is_part_of_it(tmp_path: Path, what: str) -> None:
    run = make(tmp_path / "runs" / "a", what, age_s=2)
    make(run / "twins" / "depth", what, age_s=1)
    assert newest(what, tmp_path / "runs") == run


@pytest.mark.parametrize("written", ["state.pt", "summary.json"])
def test_a_run_that_went_on_is_the_newest(tmp_path: Path, written: str) -> None:
    old = make(tmp_path / "old", "run", age_s=2)
    new = make(tmp_path / "new", "run", age_s=1)
    assert newest("run", tmp_path) == new
    (old / written).touch()
    assert newest("run", tmp_path) == old


@pytest.mark.parametrize("root", ["", "nowhere"])
def test_nothing_there_is_a_data_error(tmp_path: Path, what: str, root: str) -> None:
    with pytest.raises(DataError, match=f"expected a {what}, found none. Name one, or run `edgemtl "):
        newest(what, tmp_path / root)


def test_recipes_ship_and_are_found_by_name() -> None:
    shipped = recipes()
    assert {"scenes_quickstart", "nyuv2_segnet", "nyuv2_compact", "nyuv2_resnet18"} <= set(shipped)
    for name, path in shipped.items():
        assert path.is_file()
        assert find_recipe(name) == path


def test_a_file_wins_over_a_recipe_that_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nyuv2_compact").touch()
    assert find_recipe("nyuv2_compact") == Path("nyuv2_compact")


def test_an_unknown_recipe_offers_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"nyuv2_compct: .* Did you mean `nyuv2_compact`\?"):
        find_recipe("nyuv2_compct")


def test_a_run_is_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "env.json").touch()
    with pytest.raises(UsageError, match=r"found a run\. Name its recipe.* --resume"):
        find_recipe(str(tmp_path))
