"""What an analysis finds, as evidence.json has it."""

from __future__ import annotations

import msgspec
from grid import Candidate


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """A figure by seed, its mean, and 95 % intervals of the mean: Student's and the bootstrap's. One seed has
    no interval.
    """

    by_seed: dict[int, float]
    mean: float
    t95: tuple[float, float] | None = None
    bootstrap95: tuple[float, float] | None = None


class Gain(msgspec.Struct, frozen=True, kw_only=True):
    """Delta_m in percent, + is better: over all metrics, as the mean of the tasks' means, by task and by
    metric (TASK.METRIC).
    """

    overall: Interval
    task_mean: Interval
    tasks: dict[str, Interval]
    metrics: dict[str, Interval]


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """Medians over the seeds; ``step_ratio`` is over plain kernels of the same seed. Measured in the queue,
    beside other runs, so rough: benchmarks/steps.py has ratios that were measured in turns.
    """

    step_ms: float
    step_ratio: float | None
    peak_rss_mib: float
    peak_device_mib: float | None
    parameters: tuple[int, int]
    macs_deployed: int


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A cell. ``candidates``: of each rate that was tried, Delta_m on the holdout against their mean."""

    seeds: tuple[int, ...]
    chosen: Candidate | None
    candidates: dict[str, float]
    scores: dict[str, dict[str, Interval]]
    against_twins: Gain | None
    against_plain: Gain | None
    costs: Costs


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """A cell in the Pareto drawing: the median latency of its exported bundle (of the twins: of all of them
    together) by threads, and Delta_m against the twins of the size that the grid is about.
    """

    name: str
    size: str
    latency_ms: dict[int, float]
    overall: Interval
    task_mean: Interval


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """All that a grid's runs say. ``missing`` and ``failed`` name runs that were asked for. ``pareto`` is
    empty until latencies are measured.
    """

    grid: str
    created: str
    epochs: int
    split: str
    images: int
    missing: tuple[str, ...]
    failed: dict[str, str]
    cells: dict[str, Found]
    pareto: tuple[Point, ...] = ()
