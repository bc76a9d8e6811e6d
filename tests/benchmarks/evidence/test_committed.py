"""What is committed of each grid is what its runs say."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

pytest.importorskip("torch")

from analysis import analyze
from findings import Evidence
from grid import read_grid
from records import folder_of
from tables import markdown

GRIDS = sorted(Path(analyze.__code__.co_filename).with_name("grids").glob("*.yaml"))


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_the_evidence_is_that_of_the_runs(path: Path) -> None:
    grid = read_grid(path)
    folder = folder_of(grid.name)
    if not (folder / "runs").is_dir():
        pytest.skip(f"no run of {grid.name} yet")
    page = (folder / "evidence.md").read_text()
    committed = msgspec.json.decode((folder / "evidence.json").read_bytes(), type=Evidence)
    # As pages: another processor may differ in the last of all digits.
    assert markdown(analyze(grid)) == page, "run benchmarks/evidence/analysis.py"
    assert markdown(committed) == page
