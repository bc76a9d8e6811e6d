"""The verbs that stand on PyTorch, from a recipe to a bundle: each imports it inside its body."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgemtl.cli.arguments import (
    Json,
    KeyframesText,
    Maximum,
    Minimum,
    Overrides,
    Rates,
    ReportFile,
    RunPath,
    Runtime,
)
from edgemtl.cli.output import chosen, gate, show
from edgemtl.core.errors import UsageError
from edgemtl.core.locate import find_recipe


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe; with --resume, a run.")],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder. Default: runs/NAME.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was killed.")] = False,
    twins: Annotated[
        bool, typer.Option("--twins", help="Then each task alone, to give Delta_m against: RUN/twins/TASK.")
    ] = False,
    devices: Annotated[int | None, typer.Option(min=1, help="Same as training.devices=N.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check recipe and data, show the network.")
    ] = False,
) -> None:
    """Train a recipe into a run."""
    from edgemtl import workflow
    from edgemtl.launch import is_main_process, rehearse
    from edgemtl.recipe import load
    from edgemtl.report.console import training_console

    if resume:
        options = {"--out": out, "--devices": devices, "--dry-run": dry_run}
        if beside := [*(overrides or ()), *(name for name, value in options.items() if value)]:
            raise UsageError(
                "--resume",
                expected="a run alone: its recipe is in it",
                found=", ".join(beside),
                fix="Leave it out, or train anew.",
            )
        run = workflow.resume(Path(recipe), twins=twins, observe=training_console)
    else:
        changes = [*(overrides or []), *([f"training.devices={devices}"] if devices else [])]
        loaded = load(find_recipe(recipe), changes)
        if dry_run:
            rehearse(loaded, out)
            show(workflow.inspect(recipe, changes), as_json=False)
            return
        run = workflow.train(loaded, out, twins=twins, observe=training_console)
    if is_main_process():
        typer.echo(str(run.path))


def evaluate(
    subject: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN|BUNDLE", help="Default: the newest run; with --rates or --keyframes, bundle."
        ),
    ] = None,
    network: Annotated[
        str, typer.Option(help="checkpoint or collapsed. Default: collapsed, if the run is.")
    ] = "",
    weights: Annotated[
        str, typer.Option(help="last or best (with data.holdout): of the checkpoint. Default: last.")
    ] = "",
    split: Annotated[str, typer.Option(help="A split of the run's data.")] = "val",
    baseline: Annotated[
        Path | None,
        typer.Option(help="A run, twins or report to give Delta_m against. Default: its twins."),
    ] = None,
    rates: Rates = None,
    keyframes: KeyframesText = None,
    runtime: Runtime = None,
    minimum: Minimum = None,
    maximum: Maximum = None,
    out: ReportFile = None,
    as_json: Json = False,
) -> None:
    """Measure the metrics of every task over a split."""
    import msgspec

    from edgemtl.bench.device import Watch
    from edgemtl.bench.document import as_document
    from edgemtl.bench.gate import check_gates, judge, parse_gates
    from edgemtl.core.bundle import MANIFEST
    from edgemtl.core.report import EvalReport
    from edgemtl.evaluation import evaluate as measure
    from edgemtl.runtime.opening import choose
    from edgemtl.runtime.video import parse_keyframes

    choose(runtime)
    gates, watch = parse_gates(minimum=minimum or (), maximum=maximum or ()), Watch()
    check_gates(gates, EvalReport)
    subject = subject or chosen("bundle" if rates or keyframes else "run")
    if runtime and not (subject / MANIFEST).is_file():
        raise UsageError(
            "--runtime",
            expected="a bundle to run with it",
            found=str(subject),
            fix="Name a bundle of the run.",
        )
    with watch.watching():
        found = measure(
            subject,
            network=network,
            split=split,
            baseline=baseline,
            weights=weights,
            rates=rates or (),
            keyframes=None if keyframes is None else parse_keyframes(keyframes),
        )
    report = msgspec.structs.replace(found, device=watch.device)
    show(report, as_json=as_json, out=out)
    gate(judge(as_document(report), gates))


def collapse(
    run: RunPath = None,
    weights: Annotated[str, typer.Option(help="last, or best (with data.holdout).")] = "last",
    evaluate: Annotated[bool, typer.Option(help="Measure both networks on the val split.")] = True,
    as_json: Json = False,
) -> None:
    """Merge the factors of a run's kernels into plain convolutions, with a certificate."""
    from edgemtl import workflow
    from edgemtl.run import Run

    collapsed = workflow.collapse(Run.open(run or chosen("run")), weights=weights, evaluate=evaluate)
    show(collapsed.certificate, as_json=as_json)


def export(
    run: RunPath = None,
    out: Annotated[
        Path | None, typer.Option(help="Default: RUN/bundles/TARGET-PRECISION; replaces a bundle.")
    ] = None,
    target: Annotated[
        str, typer.Option(help="onnx (any runtime), desktop, jetson (all), jetson-orin-nano, -nx, ...")
    ] = "onnx",
    jetpack: Annotated[
        str, typer.Option(metavar="VERSION", help="Such as 6.2. Default: this board's for jetson, else all.")
    ] = "",
    precision: Annotated[str, typer.Option(help="fp32, fp16 or int8.")] = "fp32",
    layout: Annotated[str, typer.Option(help="merged, split, or both with a comma.")] = "merged,split",
    batch: Annotated[str, typer.Option(help="A static batch, or smallest,largest.")] = "1",
    opset: Annotated[
        int | None, typer.Option(help="Of ONNX. Default: the newest up to 18 that the target reads.")
    ] = None,
    dla: Annotated[bool, typer.Option("--dla", help="Let engines use the board's DLA.")] = False,
    calibration: Annotated[
        str | None, typer.Option(help="Of int8: percentile (the default), entropy or minmax.")
    ] = None,
    calibration_images: Annotated[
        int | None, typer.Option(help="Of the training split, for int8. Default: 128.")
    ] = None,
    equalize: Annotated[
        bool, typer.Option("--equalize", help="Of int8: give channels like ranges first.")
    ] = False,
    correct_bias: Annotated[
        bool | None, typer.Option(help="Of int8: make up for the mean error of rounding. Default: yes.")
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PRECISION", help="A task's head or a segment in fp16 or fp32."),
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK.METRIC=X or =X%", help="Keep in higher precision what more would cost."),
    ] = None,
) -> None:
    """Write a collapsed run as a bundle of ONNX files, with the scripts that the target's boards need."""
    from edgemtl import workflow
    from edgemtl.bench.device import device_facts
    from edgemtl.export import parse_export
    from edgemtl.run import Run

    if target == "jetson" and not jetpack:
        jetpack = device_facts().jetpack or ""  # exported on the board itself
    spec = parse_export(
        target=target,
        jetpack=jetpack,
        precision=precision,
        layouts=layout,
        batch=batch,
        opset=opset,
        dla=dla,
        lowering={
            "calibration": calibration,
            "images": calibration_images,
            "equalize": equalize,
            "correct_bias": correct_bias,
        },
        keep=keep or (),
        budget=budget or (),
    )
    folder, manifest = workflow.export(Run.open(run or chosen("run")), out, spec)
    if spec.devices and not jetpack:
        platforms = ", ".join(dict.fromkeys(str(device.platform) for device in spec.devices))
        hint = "name yours with --jetpack to use all that it can"
        typer.echo(f"one bundle for {platforms}: opset {spec.written_opset}; {hint}", err=True)
    if manifest.lowered is not None:
        from rich.console import Console

        from edgemtl.report.views import view

        Console(stderr=True).print(view(manifest))
    typer.echo(str(folder))


def inspect(
    subject: Annotated[str, typer.Argument(metavar="RECIPE|RUN|BUNDLE")],
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Show stages and groups with parameters, MACs and bytes, and which layers stay plain and why."""
    from edgemtl import workflow

    show(workflow.inspect(subject, overrides or ()), as_json=as_json)
