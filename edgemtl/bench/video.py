"""What the frames of a video cost at rates and with keyframes, by the files that really run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import partial
from pathlib import Path
from statistics import fmean
from time import perf_counter_ns

import msgspec
import numpy as np

from edgemtl.bench.latency import stats
from edgemtl.core.bundle import Manifest
from edgemtl.core.report import VideoMeasure
from edgemtl.runtime.runner import BundleRunner
from edgemtl.runtime.schedule import Cycle
from edgemtl.runtime.session import SessionFactory, recording
from edgemtl.runtime.video import Keyframes, VideoRunner, video_layout


def bench_video(
    folder: Path,
    manifest: Manifest,
    *,
    rates: Mapping[str, Fraction],
    keyframes: Keyframes | None,
    batch: int,
    threads: int,
    sessions: SessionFactory,
    warmup_ms: float,
    duration_s: float,
    repeats: int,
) -> dict[str, VideoMeasure]:
    """Measure a ``moving`` video, of which every frame is a keyframe, and with ``keyframes`` a ``still`` one.

    What a camera sees lies in between; `evaluate` says where.

    Raises:
        UsageError: as ``VideoRunner``.
    """
    ran: list[str] = []
    full = BundleRunner(folder, threads=threads, sessions=sessions, manifest=manifest)
    runner = BundleRunner(
        folder,
        layout=video_layout(manifest),
        threads=threads,
        sessions=recording(sessions, ran),
        manifest=manifest,
    )
    videos = {"moving": keyframes and msgspec.structs.replace(keyframes, every=1)}
    if keyframes:
        videos["still"] = keyframes
    shape = (batch, 3, manifest.input.height, manifest.input.width)
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    found = {}
    for name, kept in videos.items():
        video = VideoRunner(runner, rates=rates, keyframes=kept)
        frames = period(video.cycle, kept.every if kept else 1)
        film = partial(_film, partial(video, image), partial(full, image), frames, ran)
        film(duration_s=warmup_ms / 1000, repeats=1)  # has the first frame, which computes all
        found[name] = film(duration_s=duration_s, repeats=repeats)
    return found


def period(cycle: Cycle, every: int) -> int:
    """After how many frames a video in which nothing moves repeats what it computes.

    A keyframe is looked for when a task is due, so the next one is the first such frame after ``every``.
    """
    seen: dict[int, int] = {}
    frame = next(index for index, due in enumerate(cycle) if due)
    while (place := frame % len(cycle)) not in seen:
        seen[place] = frame
        frame += every
        while not cycle[frame % len(cycle)]:
            frame += 1
    return frame - seen[place]


def _film(
    video: Callable[[], object],
    full: Callable[[], object],
    frames: int,
    ran: list[str],
    *,
    duration_s: float,
    repeats: int,
) -> VideoMeasure:
    """Run whole periods of frames, in turns with all tasks on every frame."""
    kinds: dict[tuple[str, ...], list[float]] = {}  # durations by the files that a frame ran
    full_ms: list[float] = []
    end = perf_counter_ns() + duration_s * 1e9
    while len(full_ms) < repeats or perf_counter_ns() < end:
        for _ in range(frames):
            ran.clear()
            took_ms = _time_ms(video)
            kinds.setdefault(tuple(ran), []).append(took_ms)
            full_ms.append(_time_ms(full))
    calls: Counter[str] = Counter()
    for files, durations_ms in kinds.items():
        calls.update(dict.fromkeys(files, len(durations_ms)))
    return VideoMeasure(
        latency_ms=stats([took_ms for durations_ms in kinds.values() for took_ms in durations_ms]),
        worst_latency_ms=stats(max(kinds.values(), key=fmean)),
        full_latency_ms=stats(full_ms),
        calls={name: count / len(full_ms) for name, count in sorted(calls.items())},
    )


def _time_ms(run: Callable[[], object]) -> float:
    start = perf_counter_ns()
    run()
    return (perf_counter_ns() - start) / 1e6
