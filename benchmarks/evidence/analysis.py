"""What the runs of a grid say: results/GRID/evidence.json and evidence.md.

    python benchmarks/evidence/analysis.py [--grid benchmarks/evidence/grids/cpu.yaml]

A difference is always paired: a run against the twins, and against plain kernels, of the same seed. Its
interval over the seeds is Student's (95 %, paired); beside it stands the percentile bootstrap, which with
three seeds cannot be wider than the seeds lie apart and is therefore too narrow. Both speak of other seeds,
not of other images. What is not measured yet is listed, never filled in.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from drawing import draw
from findings import Costs, Evidence, Found, Gain, Interval, Point
from grid import Cell, Grid, gains_over_mean, outcome_of, read_grid, sized
from latency import TWINS, read_latencies
from records import Failed, Finished, folder_of, read_all
from tables import markdown

from edgemtl.core.delta_m import gains
from edgemtl.core.errors import EdgemtlError
from edgemtl.core.files import json_bytes, replacing
from edgemtl.core.report import MetricInfo, Scores, timestamp

RESAMPLES = 10_000
# Student's t, 97.5 %, by degrees of freedom from 1 on.
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
Metrics = Mapping[str, tuple[MetricInfo, ...]]


class Runs:
    """The final runs of a grid that are there, by cell and seed, with what they are compared to."""

    def __init__(self, grid: Grid) -> None:
        self.grid, self.cells = grid, grid.cells
        self.outcomes = read_all(grid.name)
        self.jobs = grid.jobs(self.outcomes)
        found = {job.name: outcome_of(job, grid.recipe, self.outcomes) for job in self.jobs}
        self.failed = {name: run.error for name, run in found.items() if isinstance(run, Failed)}
        self.missing = tuple(name for name, run in found.items() if run is None)
        self.finished = {name: run for name, run in found.items() if isinstance(run, Finished)}
        self._final: dict[str, dict[int, Finished]] = {name: {} for name in self.cells}
        for job in self.jobs:
            if job.stage == "final" and job.name in self.finished:
                self._final[job.cell][job.seed] = self.finished[job.name]

    def of(self, cell: str) -> dict[int, Finished]:
        """The runs of a cell by seed."""
        return self._final.get(cell, {})

    def twins_of(self, size: str) -> dict[int, Scores]:
        """The scores of all tasks' twins in a size, of the seeds for which every twin is there."""
        twins = [self.of(name) for name in self.grid.twin_cells(size)]
        seeds = set.intersection(*map(set, twins)) if twins else set()
        return {seed: {k: v for twin in twins for k, v in twin[seed].scores.items()} for seed in seeds}

    def plain_of(self, cell: Cell) -> dict[int, Finished]:
        """The runs of plain kernels with a cell's size, balancing and epochs; none for those cells."""
        return self.of(cell.plain) if cell.plain != cell.name and cell.epochs is None else {}

    def tried(self, cell: Cell) -> dict[str, float]:
        """Delta_m of the rates that were tried for a cell, against their mean, on the holdout."""
        names = {
            f"select-{cell.rate_of}-{candidate}": str(candidate)
            for candidate in self.cells[cell.rate_of].candidates
        }
        done = {label: self.finished[name] for name, label in names.items() if name in self.finished}
        return gains_over_mean(done)


def analyze(grid: Grid) -> Evidence:
    """Everything that can be said of a grid's runs now."""
    runs = Runs(grid)
    finals = [run for cell in runs.cells for run in runs.of(cell).values()]
    return Evidence(
        grid=grid.name,
        created=timestamp(),
        epochs=grid.epochs,
        split=finals[0].split if finals else "",
        images=finals[0].images if finals else 0,
        missing=runs.missing,
        failed=runs.failed,
        cells={name: found(runs, cell) for name, cell in runs.cells.items() if runs.of(name)},
        pareto=pareto(runs),
    )


def found(runs: Runs, cell: Cell) -> Found:
    """What the runs of a cell say."""
    own, plain = runs.of(cell.name), runs.plain_of(cell)
    scores, metrics = scores_of(own), next(iter(own.values())).metrics
    return Found(
        seeds=tuple(sorted(own)),
        chosen=runs.grid.chosen(runs.cells[cell.rate_of], runs.outcomes),
        candidates=runs.tried(cell),
        scores={
            task: {
                info.name: interval({seed: run.scores[task][info.name] for seed, run in own.items()})
                for info in infos
            }
            for task, infos in metrics.items()
        },
        against_twins=gain(scores, runs.twins_of(cell.size), metrics) if cell.plain else None,
        against_plain=gain(scores, scores_of(plain), metrics),
        costs=costs(own, plain),
    )


def pareto(runs: Runs) -> tuple[Point, ...]:
    """Every network whose latency was measured, against the twins of the grid's own size."""
    twins = runs.twins_of("")
    metrics = {k: v for run in runs.finished.values() for k, v in run.metrics.items()}
    points = []
    for timed in read_latencies(runs.grid.name):
        cell = sized(timed.name, timed.size)
        own = runs.twins_of(timed.size) if timed.name == TWINS else scores_of(runs.of(cell))
        if found := gain(own, twins, metrics):
            points.append(
                Point(
                    name=timed.name,
                    size=timed.size,
                    latency_ms={threads: stats.p50 for threads, stats in timed.latency_ms.items()},
                    overall=found.overall,
                    task_mean=found.task_mean,
                )
            )
    return tuple(points)


def scores_of(runs: Mapping[int, Finished]) -> dict[int, Scores]:
    """The scores of runs by seed."""
    return {seed: run.scores for seed, run in runs.items()}


def gain(own: Mapping[int, Scores], base: Mapping[int, Scores], metrics: Metrics) -> Gain | None:
    """Delta_m of runs against the baseline of the same seed; None where no seed has both."""
    by_seed = {s: gains(scores, base[s], metrics) for s, scores in sorted(own.items()) if s in base}
    if not by_seed:
        return None
    tasks = next(iter(by_seed.values()))
    means = {
        task: {s: statistics.fmean(table[task].values()) for s, table in by_seed.items()} for task in tasks
    }
    return Gain(
        overall=interval(
            {
                s: statistics.fmean(g for t in table.values() for g in t.values())
                for s, table in by_seed.items()
            }
        ),
        task_mean=interval({s: statistics.fmean(means[task][s] for task in tasks) for s in by_seed}),
        tasks={task: interval(means[task]) for task in tasks},
        metrics={
            f"{task}.{name}": interval({s: table[task][name] for s, table in by_seed.items()})
            for task, names in tasks.items()
            for name in names
        },
    )


def interval(by_seed: Mapping[int, float]) -> Interval:
    """The mean of a figure over the seeds, with its intervals."""
    values = np.array([by_seed[seed] for seed in sorted(by_seed)])
    mean = float(values.mean())
    if len(values) == 1:
        return Interval(by_seed=dict(by_seed), mean=mean)
    half = T_975[len(values) - 2] * float(values.std(ddof=1)) / len(values) ** 0.5
    draws = np.random.default_rng(0).choice(values, (RESAMPLES, len(values))).mean(axis=1)
    low, high = np.quantile(draws, (0.025, 0.975))
    return Interval(
        by_seed=dict(sorted(by_seed.items())),
        mean=mean,
        t95=(mean - half, mean + half),
        bootstrap95=(float(low), float(high)),
    )


def costs(own: Mapping[int, Finished], plain: Mapping[int, Finished]) -> Costs:
    """What runs took, and how much more than plain ones of the same seed. Runs that emulate bf16 took what
    another machine does, and count only where there are no others.
    """
    native = {seed: run for seed, run in own.items() if not run.made.bf16_emulated} or own
    all_ = [run.cost for run in native.values()]
    ratios = [
        run.cost.step_ms / plain[seed].cost.step_ms
        for seed, run in native.items()
        if seed in plain and plain[seed].made.bf16_emulated == run.made.bf16_emulated
    ]
    device = [cost.peak_device_mib for cost in all_ if cost.peak_device_mib is not None]
    return Costs(
        step_ms=statistics.median(cost.step_ms for cost in all_),
        step_ratio=statistics.median(ratios) if ratios else None,
        peak_rss_mib=statistics.median(cost.peak_rss_mib for cost in all_),
        peak_device_mib=statistics.median(device) if device else None,
        parameters=all_[0].parameters,
        macs_deployed=all_[0].macs[1],
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--grid", type=Path, default=Path(__file__).parent / "grids" / "cpu.yaml")
    try:
        evidence = analyze(read_grid(parser.parse_args().grid))
        folder = folder_of(evidence.grid)
        text = markdown(evidence)
        for name, content in (("evidence.json", json_bytes(evidence)), ("evidence.md", text.encode())):
            with replacing(folder / name) as draft:
                draft.write_bytes(content)
        if evidence.pareto:
            draw(evidence, folder / "pareto.svg")
    except EdgemtlError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(text)
    print(f"written to {folder}")


if __name__ == "__main__":
    main()
