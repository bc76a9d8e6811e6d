"""The verbs of the device: none of them ever loads PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgemtl.cli.arguments import (
    BundlePath,
    Json,
    KeyframesText,
    Layout,
    Maximum,
    Minimum,
    Rates,
    ReportFile,
    Runtime,
    Threads,
)
from edgemtl.cli.output import chosen, gate, show
from edgemtl.core.errors import GateError, SetupError


def verify(
    bundle: BundlePath = None,
    layout: Layout = None,
    atol: Annotated[float | None, typer.Option(help="Default: the manifest's.")] = None,
    rtol: Annotated[float | None, typer.Option(help="Default: the manifest's.")] = None,
    threads: Threads = None,
    runtime: Runtime = None,
    out: ReportFile = None,
    as_json: Json = False,
) -> None:
    """Replay a bundle's golden samples through the runtime at hand."""
    import msgspec

    from edgemtl.bench.device import Watch
    from edgemtl.runtime.opening import choose
    from edgemtl.runtime.verify import verify as replay

    choose(runtime)
    folder, watch = bundle or chosen("bundle"), Watch()
    with watch.watching():
        found = replay(folder, layout=layout, atol=atol, rtol=rtol, threads=threads)
    report = msgspec.structs.replace(found, device=watch.device)
    show(report, as_json=as_json, out=out)
    if not report.passed:
        failed = [
            f"{name} {t}" for name, tasks in report.layouts.items() for t, d in tasks.items() if not d.passed
        ]
        raise GateError(
            folder,
            expected="the golden outputs",
            found=f"others for {', '.join(failed)}",
            fix="See the table.",
        )


def bench(
    bundle: BundlePath = None,
    layout: Layout = None,
    threads: Threads = None,
    runtime: Runtime = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Default: the smallest of the bundle.")] = None,
    duration_s: Annotated[
        float, typer.Option("--duration", help="Seconds for each way of running it.")
    ] = 2.0,
    repeats: Annotated[int, typer.Option(min=1, help="The least number of repeats.")] = 20,
    warmup_ms: Annotated[float, typer.Option("--warmup-ms", help="Before measuring.")] = 200.0,
    baseline: Annotated[Path | None, typer.Option(help="A report that --max-regress counts from.")] = None,
    max_regress: Annotated[
        list[str] | None, typer.Option(metavar="PATH=X%", help="Fail if a figure is worse by more.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Count from a baseline of other settings or devices, too.")
    ] = False,
    rates: Rates = None,
    keyframes: KeyframesText = None,
    minimum: Minimum = None,
    maximum: Maximum = None,
    out: ReportFile = None,
    as_json: Json = False,
) -> None:
    """Measure latency, memory, load time and size of a bundle."""
    from edgemtl.bench.document import as_document, read_report
    from edgemtl.bench.gate import check_gates, judge, parse_gates
    from edgemtl.bench.suite import BenchSettings
    from edgemtl.bench.suite import bench as measure
    from edgemtl.core.report import BenchReport
    from edgemtl.runtime.opening import choose
    from edgemtl.runtime.video import parse_keyframes

    choose(runtime)
    gates = parse_gates(minimum=minimum or (), maximum=maximum or (), max_regress=max_regress or ())
    check_gates(gates, BenchReport, baseline=baseline)
    base = None if baseline is None else read_report(baseline)
    settings = BenchSettings(
        layout=layout,
        threads=threads,
        batch=batch,
        duration_s=duration_s,
        repeats=repeats,
        warmup_ms=warmup_ms,
        rates=tuple(rates or ()),
        keyframes=None if keyframes is None else parse_keyframes(keyframes),
    )
    report = measure(bundle or chosen("bundle"), settings)
    show(report, as_json=as_json, out=out)
    gate(judge(as_document(report), gates, baseline=base, force=force))


def run(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="[BUNDLE] IMAGES...", help="Pictures, .npy arrays, folders. Default bundle: the newest."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Where to write predictions.")] = Path("predictions"),
    task: Annotated[list[str] | None, typer.Option(help="A task; repeat for several. Default: all.")] = None,
    threads: Threads = None,
    runtime: Runtime = None,
) -> None:
    """Predict for images: a picture and an .npz file of the raw outputs for each."""
    from edgemtl.core.bundle import MANIFEST
    from edgemtl.predict import predict
    from edgemtl.runtime.opening import choose

    choose(runtime)
    named = (paths[0] / MANIFEST).is_file()
    bundle, images = (paths[0], paths[1:]) if named else (chosen("bundle"), paths)
    for path in predict(bundle, images, out, tasks=task, threads=threads):
        typer.echo(str(path))


def compare(
    reports: Annotated[list[Path], typer.Argument(help="JSON reports of bench, evaluate or verify.")],
    force: Annotated[bool, typer.Option("--force", help="Even if settings or devices differ.")] = False,
    as_json: Json = False,
) -> None:
    """Put reports side by side; refuses those that were not measured alike."""
    from edgemtl.bench.compare import compare as side_by_side

    show(side_by_side(reports, force=force), as_json=as_json)


def doctor(as_json: Json = False) -> None:
    """Show what of Python, PyTorch, TensorRT, GPU and board is there, what is missing and how to get it."""
    from edgemtl.doctor import diagnose

    diagnosis = diagnose()
    show(diagnosis, as_json=as_json)
    if broken := diagnosis.broken:
        names = ", ".join(broken)
        raise SetupError("doctor", expected="nothing broken", found=names, fix="See what is listed with it.")
