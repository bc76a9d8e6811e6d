"""Latency: several ways of doing something, measured in turns so that a machine's drift hits all alike."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from time import perf_counter_ns
from typing import TypeVar

import numpy as np

from edgemtl.core.report import Stats

Key = TypeVar("Key", bound=Hashable)


def measure(
    ways: Mapping[Key, Callable[[], object]], *, warmup_ms: float, duration_s: float, repeats: int
) -> dict[Key, Stats]:
    """Run every way once per round, for at least ``repeats`` rounds and ``duration_s`` seconds for each way.

    Every round has a new order (the same ones each time), so that no way profits from its predecessor. Each
    way runs for ``warmup_ms``, and at least once, before the rounds start.
    """
    for run in ways.values():
        warm = perf_counter_ns() + warmup_ms * 1e6
        run()
        while perf_counter_ns() < warm:
            run()
    durations_ms: dict[Key, list[float]] = {key: [] for key in ways}
    order, shuffle = list(ways), random.Random(0).shuffle
    end, rounds = perf_counter_ns() + duration_s * 1e9 * len(order), 0
    while rounds < repeats or perf_counter_ns() < end:
        shuffle(order)
        for key in order:
            start = perf_counter_ns()
            ways[key]()
            durations_ms[key].append((perf_counter_ns() - start) / 1e6)
        rounds += 1
    return {key: stats(values) for key, values in durations_ms.items()}


def stats(durations_ms: Sequence[float]) -> Stats:
    """Mean, population standard deviation and percentiles (linear interpolation) of at least one duration."""
    values = np.asarray(durations_ms)
    mean, std = float(values.mean()), float(values.std())
    p50, p90, p95, p99 = (float(p) for p in np.percentile(values, (50, 90, 95, 99)))
    return Stats(
        mean=mean,
        std=std,
        cv=std / mean if mean else 0.0,
        min=float(values.min()),
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        max=float(values.max()),
        count=len(values),
    )
