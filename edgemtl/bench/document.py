"""A report as it lies on disk: a JSON document whose figures have dotted paths."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgemtl.core.errors import DataError
from edgemtl.core.report import FORMAT, SUMMARY, BenchReport, EvalReport, MetricInfo, VerifyReport

Document = Mapping[str, Any]

KINDS = ("bench", "evaluate", "verify")
TIMES = {
    "latency_ms",
    "worst_latency_ms",
    "full_latency_ms",
    "compute_ms",
    "load_ms",
    "first_inference_ms",
}
COSTS = {*TIMES, "memory_mib", "size_mib", "macs", "max_abs", "max_rel"}
GAINS = {"images_per_s", "delta_m", "delta_m_tasks", "delta_m_metrics"}
ON_DEVICE = {*TIMES, "memory_mib", "images_per_s"}  # mean nothing without device and settings


class _Described(msgspec.Struct):
    """What is read of a report beside its figures."""

    metrics: dict[str, tuple[MetricInfo, ...]] = {}


def as_document(report: BenchReport | EvalReport | VerifyReport) -> Document:
    """What ``read_report`` would find if the report were on disk."""
    return msgspec.json.decode(msgspec.json.encode(report), type=dict[str, Any])


def read_report(path: Path) -> Document:
    """Read a report that a verb of edgemtl wrote with ``--json``, or that of a run, by the run's folder.

    Raises:
        DataError: the file is missing or truncated, is no report, or is one of another version.
    """
    if path.is_dir() and not (path / SUMMARY).is_file():
        raise DataError(
            path,
            expected="a report, or a run that is finished",
            found="neither",
            fix="Train to the end with `edgemtl train RUN --resume`, or name a report of `--json`.",
        )
    path = path / SUMMARY if path.is_dir() else path
    try:
        document = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise _no_report(path, error.strerror or str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _no_report(path, str(error)) from error
    kind, version = document.get("kind"), document.get("format")
    if kind not in KINDS or version != FORMAT:
        raise _no_report(path, f"kind {kind}, format {version}")
    try:
        msgspec.convert(document, _Described)
    except msgspec.ValidationError as error:
        raise _no_report(path, str(error)) from error
    return document


def leaves(document: Document, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every value of a report with its dotted path. Lists hold descriptions, not values, and are left out."""
    for key, value in document.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        elif not isinstance(value, list):
            yield prefix + key, value


def figures(document: Document) -> dict[str, float | None]:
    """Every number of a report by its path, None where it was not measured or is not finite."""
    return {
        path: value if value is not None and abs(value) <= sys.float_info.max else None  # NaN is not
        for path, value in leaves(document)
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    }


def higher_is_better(document: Document, path: str) -> bool | None:
    """Which way a figure should go: by its metric's description, or by its name. None where neither tells."""
    for task, metrics in document.get("metrics", {}).items():
        for metric in metrics:
            if path == f"tasks.{task}.{metric['name']}":
                return bool(metric["higher_is_better"])
    keys = set(path.split("."))
    if keys & {"settings", "device"}:
        return None
    if keys & COSTS:
        return False
    return True if keys & GAINS else None


def _no_report(path: Path, found: str) -> DataError:
    return DataError(
        path,
        expected=f"a report of format {FORMAT} and kind {', '.join(KINDS)}",
        found=found,
        fix="Write it again, for example with `edgemtl bench --json > report.json`.",
    )
