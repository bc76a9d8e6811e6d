from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemtl.bench.latency import measure, stats

durations = st.lists(st.floats(1e-3, 1e4), min_size=1, max_size=50)


@given(durations)
def test_stats_are_those_of_the_standard_library(values: list[float]) -> None:
    found = stats(values)
    assert found.mean == pytest.approx(statistics.fmean(values))
    assert found.std == pytest.approx(statistics.pstdev(values), abs=1e-6)
    assert found.cv == pytest.approx(found.std / found.mean)
    assert found.p50 == pytest.approx(statistics.median(values))
    assert (found.min, found.max, found.count) == (min(values), max(values), len(values))


@given(durations)
def test_percentiles_are_ordered(values: list[float]) -> None:
    found = stats(values)
    ordered = [found.min, found.p50, found.p90, found.p95, found.p99, found.max]
    assert ordered == pytest.approx(sorted(ordered))


def test_every_way_runs_as_often_as_the_others_in_changing_orders() -> None:
    calls: list[str] = []
    ways = {name: lambda name=name: calls.append(name) for name in "abc"}
    found = measure(ways, warmup_ms=0, duration_s=0, repeats=40)
    assert [found[name].count for name in "abc"] == [40, 40, 40]
    assert calls[:3] == ["a", "b", "c"]  # the warm-up
    rounds = {tuple(calls[start : start + 3]) for start in range(3, len(calls), 3)}
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len(rounds) == 6


def test_repeats_and_duration_are_both_the_least() -> None:
    assert measure({"a": lambda: None}, warmup_ms=0, duration_s=0, repeats=7)["a"].count == 7
    assert measure({"a": lambda: None}, warmup_ms=0, duration_s=0.02, repeats=1)["a"].count > 7


def test_warming_up_does_not_count() -> None:
    calls: list[int] = []
    found = measure({"a": lambda: calls.append(0)}, warmup_ms=5, duration_s=0, repeats=3)
    assert found["a"].count == 3
    assert len(calls) > 3 + 1


def test_a_slower_way_is_found_slower() -> None:
    small, large = np.zeros(10), np.zeros(1_000_000)
    found = measure({"small": small.sum, "large": large.sum}, warmup_ms=1, duration_s=0.01, repeats=20)
    assert found["small"].p50 < found["large"].p50
