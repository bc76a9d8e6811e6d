"""Reports: one schema wherever edgemtl runs, with the unit in every name.

The scripts of a bundle, for boards where edgemtl is not installed, print smaller documents of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Literal, NamedTuple

import msgspec

from edgemtl.core.device import Device

FORMAT = 1
SUMMARY = "summary.json"  # a run's report on its own checkpoint
Scores = Mapping[str, Mapping[str, float]]


class MetricInfo(msgspec.Struct, frozen=True):
    """A metric's name, its unit (``1`` for a share or a ratio) and which way is better.

    ``in_delta`` is false for one that stands beside its task's others and does not count in ``delta_m``.
    """

    name: str
    unit: str
    higher_is_better: bool
    in_delta: bool = True


class Stats(msgspec.Struct, frozen=True):
    """A sample of durations in milliseconds. ``cv`` is std / mean, ``count`` the number of repeats."""

    mean: float
    std: float
    cv: float
    min: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float
    count: int


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """What one way of running a bundle costs.

    ``latency_ms`` is end to end for one batch, from the array that enters to the arrays that leave, and
    ``images_per_s`` what follows from its mean, one batch after the other: no throughput of queued batches.
    ``compute_ms`` is the part of it that a GPU takes by its own events, without copies; None without a GPU.
    ``memory_mib`` is the peak of a process of its own that loads and runs it, less the same process before
    it loads; None where the system does not tell, and with a runtime that holds memory of a GPU.
    """

    latency_ms: Stats
    images_per_s: float
    compute_ms: float | None = None
    load_ms: float | None = None
    first_inference_ms: float | None = None
    memory_mib: float | None = None
    size_mib: float
    macs: int


class VideoMeasure(msgspec.Struct, frozen=True, kw_only=True):
    """What the frames of a video cost, after the first, when tasks have rates and keyframes keep the trunk.

    ``latency_ms`` is of all frames: its mean is what a frame costs on average. ``worst_latency_ms`` is of the
    frames that run the dearest files, by the mean; ``full_latency_ms`` of all tasks on every frame, in
    turns with the others. ``calls`` is how often a frame runs each file, on average.
    """

    latency_ms: Stats
    worst_latency_ms: Stats
    full_latency_ms: Stats
    calls: dict[str, float]


class BenchReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `edgemtl bench` writes. The fields of a measure at the top are those of ``settings.layout``.

    ``layouts``: merged against split, measured in turns. ``segments``: each file of the split layout alone.
    ``subsets``: only the files that some of the tasks need, keyed like ``depth+normals``.
    ``tasks``: the accuracy that the bundle's manifest states. ``video``: at the rates and keyframes of the
    settings, where these were given, a ``moving`` and a ``still`` one.
    """

    kind: Literal["bench"] = "bench"
    format: int = FORMAT
    bundle: str
    manifest_sha256: str
    created: str
    settings: dict[str, str | int | float]
    device: Device
    latency_ms: Stats
    images_per_s: float
    compute_ms: float | None
    load_ms: float | None
    first_inference_ms: float | None
    memory_mib: float | None
    size_mib: float
    macs: int
    layouts: dict[str, Measure]
    segments: dict[str, Measure]
    subsets: dict[str, Measure]
    tasks: dict[str, dict[str, float | None]]
    metrics: dict[str, tuple[MetricInfo, ...]]
    video: dict[str, VideoMeasure] = {}


class VideoUse(msgspec.Struct, frozen=True, kw_only=True):
    """How a video was run: rates by task, keyframes as given, the mean age of each task's answers in frames,
    and how often a frame ran each file, on average."""

    rates: dict[str, str]
    keyframes: str | None
    age_frames: dict[str, float]
    calls: dict[str, float]


# What must be equal before metrics are compared.
EVALUATED_ON = ("data", "split", "images", "size")


class EvalReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `edgemtl evaluate` writes: metrics per task over a whole split of ``images`` of ``size`` (height,
    width), None in a report that is older than this field.

    ``network`` says what was measured: ``checkpoint``, ``collapsed`` or ``bundle``. ``delta_m`` (percent, +
    is better than the baseline) is there when there was a baseline, overall, by task and by metric. With
    ``video`` the baseline is the same bundle with all tasks on every frame. ``device`` is where it ran.
    """

    kind: Literal["evaluate"] = "evaluate"
    format: int = FORMAT
    subject: str
    network: str
    data: str
    split: str
    images: int
    size: tuple[int, int] | None = None
    created: str
    tasks: dict[str, dict[str, float]]
    metrics: dict[str, tuple[MetricInfo, ...]]
    baseline: str | None = None
    delta_m: float | None = None
    delta_m_tasks: dict[str, float] = {}
    delta_m_metrics: dict[str, dict[str, float]] = {}
    video: VideoUse | None = None
    device: Device | None = None


class Deviation(msgspec.Struct, frozen=True, kw_only=True):
    """How far a task's output lies from its golden output, and its own ``atol`` and ``mean_atol``.

    ``max_abs`` and ``mean_abs`` are in the output's unit, ``max_rel`` is max_abs / max |expected|.
    ``sample``, ``channel`` and ``pixel`` (row, column) locate the element that exceeds its tolerance most, or
    comes closest to it.
    """

    passed: bool
    max_abs: float
    mean_abs: float
    max_rel: float
    sample: int
    channel: int
    pixel: tuple[int, int]
    expected: float
    found: float
    atol: float
    mean_atol: float | None = None


class VerifyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `edgemtl verify` writes: for each layout and task, the deviation from the golden outputs.

    ``atol`` is the bundle's, for the tasks that have none of their own. ``device`` is where it was verified.
    """

    kind: Literal["verify"] = "verify"
    format: int = FORMAT
    bundle: str
    manifest_sha256: str
    created: str
    runtime: str
    samples: int
    atol: float
    rtol: float
    layouts: dict[str, dict[str, Deviation]]
    passed: bool
    device: Device | None = None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """A gate that was judged: ``value`` passes when it is at least (or at most) ``limit``.

    ``value`` is None where the report has no number, which fails. ``baseline`` is what a regression counts
    from.
    """

    gate: str
    value: float | None
    bound: Literal["at least", "at most"]
    limit: float
    baseline: float | None = None
    passed: bool


class ComparedRow(msgspec.Struct, frozen=True):
    """One figure of several reports; None where a report lacks it."""

    path: str
    values: tuple[float | None, ...]
    higher_is_better: bool


class Comparison(msgspec.Struct, frozen=True):
    """Reports side by side. ``differences`` names what makes them unlike; empty unless that was forced."""

    kind: str
    names: tuple[str, ...]
    rows: tuple[ComparedRow, ...]
    differences: tuple[str, ...]


def timestamp() -> str:
    """Now, as reports and bundles state it: UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


class Progress(NamedTuple):
    """What training tells whoever watches: after each step, with ``scores`` once an epoch was evaluated."""

    step: int
    steps: int
    epoch: int
    epochs: int
    elapsed_s: float
    lr: float
    losses: Mapping[str, float]
    scores: Scores | None = None


Observer = Callable[[Progress], None]
