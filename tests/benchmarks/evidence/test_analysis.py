from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("yaml")
pytest.importorskip("matplotlib")
import msgspec
from analysis import analyze, interval
from drawing import draw
from findings import Evidence
from grid import Grid, read_grid
from latency import TWINS, Latencies, Timed, points
from records import folder_of
from tables import markdown

from edgemtl.bench.device import device_facts
from edgemtl.bench.latency import stats
from edgemtl.core.errors import DataError
from edgemtl.core.files import json_bytes, replacing
from tests.benchmarks.evidence.made_up import failed, finished, made_up, record, record_all, scores, tuned

GRIDS = sorted((Path(__file__).parents[3] / "benchmarks" / "evidence" / "grids").glob("*.yaml"))
# Twins: depth .50, miou .40, accuracy .5. Plain: depth .60 is 20 % worse, the rest is the same.
TWIN, PLAIN = scores(0.50, 0.40), scores(0.60, 0.40)
# Factorized: depth .45 is 10 % better than the twin and 25 % better than plain; miou .50 is 25 % better.
BETTER = scores(0.45, 0.50)
SMALL = {"small": {"overrides": ["backbone.widths=[2, 3]"], "cells": ["plain-equal"]}}


def recorded(seeds: tuple[int, ...] = (0,), better: tuple[float, ...] = (0.50,)) -> Grid:
    """A grid of which these seeds are done."""
    grid = tuned()
    for seed, miou in zip(seeds, better, strict=True):
        record_all(
            grid,
            {
                f"twin_depth-s{seed}": TWIN,
                f"twin_segmentation-s{seed}": TWIN,
                f"plain-equal-s{seed}": PLAIN,
                f"factorized-equal-s{seed}": scores(0.45, miou),
            },
        )
    return grid


def test_gains_as_computed_by_hand(results: Path) -> None:
    cell = analyze(recorded()).cells["factorized-equal"]
    twins, plain = cell.against_twins, cell.against_plain
    assert twins is not None
    assert plain is not None
    assert {name: gain.mean for name, gain in twins.metrics.items()} == {
        "depth.abs": pytest.approx(10),
        "segmentation.miou": pytest.approx(25),
        "segmentation.accuracy": 0,
    }
    assert {task: gain.mean for task, gain in twins.tasks.items()} == {
        "depth": pytest.approx(10),
        "segmentation": pytest.approx(12.5),
    }
    assert twins.overall.mean == pytest.approx((10 + 25 + 0) / 3)
    assert twins.task_mean.mean == pytest.approx((10 + 12.5) / 2)
    assert plain.metrics["depth.abs"].mean == pytest.approx(25)
    assert plain.overall.mean == pytest.approx((25 + 25 + 0) / 3)
    assert twins.overall.t95 is None, "one seed has no interval"


def test_differences_are_paired_by_seed(results: Path) -> None:
    grid = recorded((0, 1, 2), (0.42, 0.44, 0.46))
    evidence = analyze(grid)
    gain = evidence.cells["factorized-equal"].against_plain
    assert gain is not None
    assert gain.metrics["segmentation.miou"].by_seed == {
        0: pytest.approx(5), 1: pytest.approx(10), 2: pytest.approx(15)
    }  # fmt: skip
    # The mean is 10, the standard deviation 5, and Student's t of two degrees of freedom 4.303.
    half = 4.303 * 5 / 3**0.5
    assert gain.metrics["segmentation.miou"].t95 == pytest.approx((10 - half, 10 + half))
    assert evidence.cells["plain-equal"].against_plain is None, "plain is no rival of itself"
    assert not evidence.missing


def test_who_trains_for_longer_is_compared_to_the_twins_alone(results: Path) -> None:
    grid = msgspec.convert(
        {**msgspec.to_builtins(recorded()), "extras": {"long": {"like": "factorized-equal", "epochs": 99}}},
        Grid,
    )
    record_all(grid, {"long-s0": BETTER})
    cell = analyze(grid).cells["long"]
    assert cell.against_twins is not None
    assert cell.against_plain is None, "plain kernels have not trained for as long"


def test_a_seed_without_its_twins_has_no_gain(results: Path) -> None:
    grid = recorded()
    record_all(grid, {"twin_depth-s1": TWIN, "plain-equal-s1": PLAIN})
    cell = analyze(grid).cells["plain-equal"]
    assert cell.seeds == (0, 1)
    assert cell.against_twins is not None
    assert set(cell.against_twins.overall.by_seed) == {0}


def test_the_bootstrap_lies_within_the_seeds_and_student_beyond() -> None:
    found = interval({0: 1.0, 1: 2.0, 2: 4.0})
    assert found.bootstrap95 is not None
    assert found.t95 is not None
    assert found.bootstrap95 == (1.0, 4.0), "three seeds: the extremes have 1/27 each, more than 2.5 %"
    assert found.t95[0] < 1.0
    assert found.t95[1] > 4.0
    assert interval({2: 4.0, 0: 1.0, 1: 2.0}) == found


def test_costs_are_ratios_to_plain_of_the_same_seed(results: Path) -> None:
    grid = tuned()
    steps_ms = {("plain-equal", 0): 10.0, ("plain-equal", 1): 20.0, ("factorized-equal", 0): 11.0,
                ("factorized-equal", 1): 26.0, ("factorized-equal", 2): 99.0}  # fmt: skip
    for job in grid.jobs({}):
        if (job.cell, job.seed) in steps_ms:
            record(grid, finished(job, grid, PLAIN, step_ms=steps_ms[job.cell, job.seed]))
    assert analyze(grid).cells["factorized-equal"].costs.step_ratio == pytest.approx((1.1 + 1.3) / 2)
    slow = finished(next(job for job in grid.jobs({}) if job.name == "factorized-equal-s1"), grid, PLAIN)
    emulated = msgspec.structs.replace(slow.made, bf16_emulated=True)
    record(grid, msgspec.structs.replace(slow, made=emulated))
    found = analyze(grid).cells["factorized-equal"].costs
    assert found.step_ratio == pytest.approx(1.1)
    assert found.step_ms == pytest.approx((11.0 + 99.0) / 2)


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_of_a_shipped_grid_without_runs_all_is_missing(results: Path, path: Path) -> None:
    pytest.importorskip("torch")
    grid = read_grid(path)
    evidence = analyze(grid)
    assert len(evidence.missing) == len(grid.jobs({}))
    assert markdown(evidence)


def test_what_is_missing_is_listed_and_not_filled_in(results: Path) -> None:
    grid = made_up()
    empty = analyze(grid)
    assert empty.cells == {}
    assert len(empty.missing) == len(grid.jobs({}))
    broken = next(job for job in grid.jobs({}) if job.name == "select-plain-equal-lr0.003")
    record(grid, failed(broken, grid))
    record_all(grid, {"select-plain-equal-lr0.01": PLAIN, "plain-equal-s0": PLAIN})
    evidence = analyze(grid)
    cell = evidence.cells["plain-equal"]
    assert (cell.against_twins, cell.against_plain, cell.costs.step_ratio) == (None, None, None)
    assert str(cell.chosen) == "lr0.01"
    assert evidence.failed == {broken.name: "a loss is not finite"}
    page = markdown(evidence)
    assert f"## Missing: {len(evidence.missing)} runs" in page
    assert "- twin_depth-s0" in page
    assert "Against" not in page


def test_the_page_holds_the_figures_and_the_file_comes_back(results: Path) -> None:
    evidence = analyze(recorded((0, 1, 2), (0.42, 0.44, 0.46)))
    page = markdown(evidence)
    assert "| factorized-equal | 3 | +11.67 [+7.5, +15.8] |" in page.partition("Against plain")[2]
    assert "Missing" not in page
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert all(line.count("|") > 3 for line in tables)
    assert msgspec.json.decode(json_bytes(evidence), type=Evidence) == evidence


def test_sizes_are_compared_to_the_twins_of_the_base(results: Path, tmp_path: Path) -> None:
    grid = tuned(sizes=SMALL)
    record_all(grid, {f"{name}-s0": TWIN for name in ("twin_depth", "twin_segmentation")})
    record_all(grid, {f"small-{name}-s0": PLAIN for name in ("twin_depth", "twin_segmentation")})
    record_all(grid, {"plain-equal-s0": BETTER, "small-plain-equal-s0": PLAIN})
    assert analyze(grid).pareto == ()
    timed = tuple(
        Timed(name=name, size=size, latency_ms={1: stats([3.0]), 2: stats([2.0])})
        for size, name in points(grid)
    )
    with replacing(folder_of(grid.name) / "latency.json") as draft:
        draft.write_bytes(json_bytes(Latencies(created="now", device=device_facts(), timed=timed)))
    evidence = analyze(grid)
    gains = {(point.size, point.name): point.overall.mean for point in evidence.pareto}
    assert gains == {
        ("", TWINS): 0,
        ("", "plain-equal"): pytest.approx(35 / 3),
        ("small", TWINS): pytest.approx(-20 / 3),
        ("small", "plain-equal"): pytest.approx(-20 / 3),
    }
    assert "| small | twins | 3.00 | 2.00 | -6.67 |" in markdown(evidence)
    draw(evidence, tmp_path / "first.svg")
    draw(evidence, tmp_path / "second.svg")
    assert ElementTree.parse(tmp_path / "first.svg").getroot().tag.endswith("svg")
    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()


def test_a_damaged_record_is_named(results: Path) -> None:
    grid = recorded()
    damaged = folder_of(grid.name) / "runs" / "plain-equal-s0.json"
    damaged.write_bytes(damaged.read_bytes()[:-40])
    with pytest.raises(DataError, match="plain-equal-s0"):
        analyze(grid)
