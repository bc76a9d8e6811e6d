"""bench: the whole price list of a bundle on this device, as a BenchReport."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from statistics import median

import msgspec

from edgemtl.bench.device import Watch
from edgemtl.bench.latency import measure
from edgemtl.bench.probe import Request, probe
from edgemtl.bench.sysfs import ROOT
from edgemtl.bench.video import bench_video
from edgemtl.bench.way import all_ways
from edgemtl.core.bundle import MANIFEST, Manifest, read_manifest, sha256
from edgemtl.core.errors import UsageError
from edgemtl.core.report import BenchReport, Measure, Stats, VideoMeasure, timestamp
from edgemtl.runtime.opening import open_session
from edgemtl.runtime.runner import choose_layout
from edgemtl.runtime.schedule import parse_rates
from edgemtl.runtime.session import Session, SessionFactory, available_cores
from edgemtl.runtime.video import Keyframes


class BenchSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to measure. ``duration_s`` and ``repeats`` are the least for each way of running the bundle.

    By default ``threads`` is the number of cores, and ``batch`` the smallest that the bundle takes. The
    figures of ``layout`` stand at the top of the report: by default the merged one, where there is one.
    ``rates`` (as ``parse_rates`` reads them) and ``keyframes``, if given, ask for what a video costs.

    Raises:
        UsageError: a number is out of range.
    """

    layout: str | None = None
    threads: int | None = None
    batch: int | None = None
    duration_s: float = 2.0
    repeats: int = 20
    warmup_ms: float = 200.0
    rates: tuple[str, ...] = ()
    keyframes: Keyframes | None = None

    def __post_init__(self) -> None:
        least = {"threads": 1, "batch": 1, "repeats": 1, "duration_s": 0, "warmup_ms": 0}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and not bound <= value < float("inf"):
                raise UsageError(name, expected=f"{bound} or more", found=str(value), fix="Give another.")


def bench(folder: Path, settings: BenchSettings | None = None, *, root: Path = ROOT) -> BenchReport:
    """Measure every layout, every segment alone and every subset of the tasks, in turns.

    The facts of the device are looked up under ``root``.

    Raises:
        BundleError: the bundle is damaged.
        UsageError: the bundle has no such layout, does not take such a batch, or cannot run a video so.
        SetupError: the runtime is missing, cannot run the files, or runs out of memory.
    """
    settings = settings or BenchSettings()
    manifest = read_manifest(folder)
    layout = choose_layout(manifest, tuple(manifest.tasks), settings.layout)
    batch = settings.batch or manifest.input.batch[0]
    _check_batch(batch, manifest.input.batch)
    threads = settings.threads or available_cores()
    ways = {(kind, name): way for kind, named in all_ways(manifest).items() for name, way in named.items()}
    sessions = cache(open_session)  # ways that run the same file share it
    opened = {
        key: partial(way.open(folder, manifest, threads, sessions), way.feeds(manifest, batch))
        for key, way in ways.items()
    }
    watch = Watch(root)
    with watch.watching():
        video = _video(folder, manifest, settings, batch, threads, sessions)  # first: it may refuse
        latencies = measure(
            opened,
            warmup_ms=settings.warmup_ms,
            duration_s=settings.duration_s,
            repeats=settings.repeats,
        )
    priced: dict[str, dict[str, Measure]] = {kind: {} for kind, _ in ways}
    for (kind, name), way in ways.items():
        request = Request(str(folder), way, batch, threads)
        ran = [sessions(folder / file.path, file, threads) for file in way.files(manifest)]
        compute_ms = _compute_ms(opened[kind, name], ran, settings.repeats)
        priced[kind][name] = _price(request, manifest, latencies[kind, name], compute_ms)
    top = priced["layouts"][layout]
    first = manifest.layouts[layout][0]
    session = sessions(folder / first.path, first, threads)
    return BenchReport(
        bundle=manifest.name,
        manifest_sha256=sha256(folder / MANIFEST),
        created=timestamp(),
        settings={
            "layout": layout,
            "threads": threads,
            "batch": batch,
            "size": f"{manifest.input.height}x{manifest.input.width}",
            "duration_s": settings.duration_s,
            "repeats": settings.repeats,
            "warmup_ms": settings.warmup_ms,
            **session.settings,
            **({"rates": ",".join(settings.rates)} if settings.rates else {}),
            **({"keyframes": str(settings.keyframes)} if settings.keyframes else {}),
        },
        device=msgspec.structs.replace(watch.device, runtime=session.runtime),
        latency_ms=top.latency_ms,
        images_per_s=top.images_per_s,
        compute_ms=top.compute_ms,
        load_ms=top.load_ms,
        first_inference_ms=top.first_inference_ms,
        memory_mib=top.memory_mib,
        size_mib=top.size_mib,
        macs=top.macs,
        layouts=priced["layouts"],
        segments=priced.get("segments", {}),
        subsets=priced.get("subsets", {}),
        tasks={task: info.accuracy for task, info in manifest.tasks.items()},
        metrics={task: info.metrics for task, info in manifest.tasks.items()},
        video=video,
    )


def _video(
    folder: Path,
    manifest: Manifest,
    settings: BenchSettings,
    batch: int,
    threads: int,
    sessions: SessionFactory,
) -> dict[str, VideoMeasure]:
    """What was asked for about videos, which may be nothing."""
    if not settings.rates and settings.keyframes is None:
        return {}
    return bench_video(
        folder,
        manifest,
        rates=parse_rates(settings.rates, tuple(manifest.tasks)),
        keyframes=settings.keyframes,
        batch=batch,
        threads=threads,
        sessions=sessions,
        warmup_ms=settings.warmup_ms,
        duration_s=settings.duration_s,
        repeats=settings.repeats,
    )


def _compute_ms(run: Callable[[], object], sessions: Sequence[Session], repeats: int) -> float | None:
    """The median over runs of what the device took for all sessions of a way."""
    if any(session.compute_ms is None for session in sessions):  # they have run, when latency was measured
        return None
    sums = []
    for _ in range(repeats):
        run()
        sums.append(sum(session.compute_ms or 0.0 for session in sessions))
    return median(sums)


def _price(request: Request, manifest: Manifest, latency_ms: Stats, compute_ms: float | None) -> Measure:
    """Add to a latency what a process of its own tells, and what the files say."""
    found = probe(request)
    files = request.way.files(manifest)
    return Measure(
        latency_ms=latency_ms,
        images_per_s=1000 * request.batch / latency_ms.mean,
        compute_ms=compute_ms,
        load_ms=found.load_ms,
        first_inference_ms=found.first_inference_ms,
        memory_mib=found.memory_mib,
        size_mib=sum((Path(request.folder) / file.path).stat().st_size for file in files) / 2**20,
        macs=sum(file.macs for file in files),
    )


def _check_batch(batch: int, takes: tuple[int, int]) -> None:
    least, most = takes
    if not least <= batch <= most:
        raise UsageError(
            "--batch",
            expected=str(least) if least == most else f"{least} to {most}, as the bundle takes",
            found=str(batch),
            fix="Export for another: `edgemtl export --batch LEAST,MOST`.",
        )
