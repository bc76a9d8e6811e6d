"""Benchmarks are scripts that import their neighbors by bare names; a test has results of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "evidence")]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the records of a test lie."""
    monkeypatch.setattr("records.RESULTS", tmp_path / "results")
    return tmp_path / "results"
