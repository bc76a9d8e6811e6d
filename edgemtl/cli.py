"""The command line. A command is a few lines; what needs PyTorch is imported inside its body, so that help
and the verbs of the edge never load it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from edgemtl import __version__
from edgemtl.core.errors import EdgemtlError, GateError, RecipeError, SetupError
from edgemtl.core.files import json_bytes, replacing
from edgemtl.core.locate import find_recipe, newest, recipes

if TYPE_CHECKING:
    from edgemtl.core.report import Verdict

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # boxes would double the time that help takes
    pretty_exceptions_enable=False,
    help="Train, collapse, export, verify and measure multitask networks for edge devices.",
)
recipes_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List, copy and check recipes.")
data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Check datasets.")
app.add_typer(recipes_app, name="recipes")
app.add_typer(data_app, name="data")

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A file, or the name of a recipe that ships.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the recipe.")
]
RunPath = Annotated[Path | None, typer.Argument(metavar="[RUN]", help="Default: the newest.")]
BundlePath = Annotated[Path | None, typer.Argument(metavar="[BUNDLE]", help="Default: the newest.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
ReportFile = Annotated[Path | None, typer.Option("--out", help="Also write the JSON report to this file.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Default: all cores.")]
Layout = Annotated[str | None, typer.Option(help="merged or split. Default: both, or merged.")]
Minimum = Annotated[
    list[str] | None, typer.Option("--min", metavar="PATH=X", help="Fail if a figure is lower.")
]
Maximum = Annotated[
    list[str] | None, typer.Option("--max", metavar="PATH=X", help="Fail if a figure is higher.")
]
Rates = Annotated[
    list[str] | None,
    typer.Option(metavar="TASK=N/M,...", help="Of a video, the share of the frames that compute a task."),
]
KeyframesText = Annotated[
    str | None,
    typer.Option(
        "--keyframes",
        metavar="every=8,threshold=0.02",
        help="Of a video, keep the trunk's features for so many frames, or until the picture has changed.",
    ),
]


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Train, collapse, export, verify and measure multitask networks for edge devices."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
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
    from edgemtl.launch import is_main_process, open_splits
    from edgemtl.recipe import load
    from edgemtl.report.console import training_console

    if resume:
        _refuse(bool(overrides or out or devices or dry_run), "--resume", "a run alone: its recipe is in it")
        run = workflow.resume(Path(recipe), twins=twins, watch=training_console)
    else:
        changes = [*(overrides or []), *([f"training.devices={devices}"] if devices else [])]
        loaded = load(find_recipe(recipe), changes)
        if dry_run:
            open_splits(loaded)
            _print(workflow.inspect(recipe, changes), as_json=False)
            return
        run = workflow.train(loaded, out, twins=twins, watch=training_console)
    if is_main_process():
        typer.echo(str(run.path))


@app.command()
def evaluate(
    subject: Annotated[
        Path | None, typer.Argument(metavar="[RUN|BUNDLE]", help="Default: the newest run.")
    ] = None,
    network: Annotated[
        str, typer.Option(help="checkpoint or collapsed, of a run. Default: the latter.")
    ] = "",
    weights: Annotated[str, typer.Option(help="last or best, of a checkpoint.")] = "last",
    split: Annotated[str, typer.Option(help="A split of the run's data.")] = "val",
    baseline: Annotated[
        Path | None, typer.Option(help="A run, twins or report to give Delta_m against. Default: the twins.")
    ] = None,
    rates: Rates = None,
    keyframes: KeyframesText = None,
    minimum: Minimum = None,
    maximum: Maximum = None,
    out: ReportFile = None,
    as_json: Json = False,
) -> None:
    """Measure the metrics of every task over a split."""
    from edgemtl import workflow
    from edgemtl.bench.document import as_document
    from edgemtl.bench.gate import judge, parse_gates
    from edgemtl.runtime.video import parse_keyframes

    gates = parse_gates(minimum=minimum or (), maximum=maximum or ())
    report = workflow.evaluate(
        subject or newest("bundle" if rates or keyframes else "run"),
        network=network,
        split=split,
        baseline=baseline,
        weights=weights,
        rates=rates or (),
        keyframes=None if keyframes is None else parse_keyframes(keyframes),
    )
    _print(report, as_json=as_json, out=out)
    _gate(judge(as_document(report), gates))


@app.command()
def collapse(
    run: RunPath = None,
    weights: Annotated[str, typer.Option(help="last or best.")] = "last",
    evaluate: Annotated[bool, typer.Option(help="Measure both networks on the val split.")] = True,
    as_json: Json = False,
) -> None:
    """Merge the factors of a run's kernels into plain convolutions, with a certificate."""
    from edgemtl import workflow
    from edgemtl.run import Run

    collapsed = workflow.collapse(Run.open(run or newest("run")), weights=weights, evaluate=evaluate)
    _print(collapsed.certificate, as_json=as_json)


@app.command()
def export(
    run: RunPath = None,
    out: Annotated[Path | None, typer.Option(help="Default: RUN/bundles/TARGET-PRECISION.")] = None,
    target: Annotated[
        str, typer.Option(help="onnx (any runtime), desktop, jetson (all), jetson-orin-nano, -nx, ...")
    ] = "onnx",
    jetpack: Annotated[
        str, typer.Option(metavar="VERSION", help="Such as 6.2. Default: suits all of the target.")
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
        bool | None, typer.Option(help="Of int8: give channels like ranges first. Default: yes.")
    ] = None,
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
    from edgemtl.export import parse_export
    from edgemtl.run import Run

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
    folder, manifest = workflow.export(Run.open(run or newest("run")), out, spec)
    if spec.devices and not jetpack:
        platforms = ", ".join(dict.fromkeys(str(device.platform) for device in spec.devices))
        typer.echo(f"one bundle for {platforms}: opset {spec.newest_opset}", err=True)
    if manifest.lowered is not None:
        from rich.console import Console

        from edgemtl.report.views import view

        Console(stderr=True).print(view(manifest))
    typer.echo(str(folder))


@app.command()
def verify(
    bundle: BundlePath = None,
    layout: Layout = None,
    atol: Annotated[float | None, typer.Option(help="Default: the manifest's.")] = None,
    rtol: Annotated[float | None, typer.Option(help="Default: the manifest's.")] = None,
    threads: Threads = None,
    out: ReportFile = None,
    as_json: Json = False,
) -> None:
    """Replay a bundle's golden samples through the runtime at hand."""
    from edgemtl.runtime.verify import verify as replay

    folder = bundle or newest("bundle")
    report = replay(folder, layout=layout, atol=atol, rtol=rtol, threads=threads)
    _print(report, as_json=as_json, out=out)
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


@app.command()
def bench(
    bundle: BundlePath = None,
    layout: Layout = None,
    threads: Threads = None,
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
    rates: Rates = None,
    keyframes: KeyframesText = None,
    minimum: Minimum = None,
    maximum: Maximum = None,
    out: ReportFile = None,
    as_json: Json = False,
) -> None:
    """Measure latency, throughput, memory, load time and size of a bundle."""
    from edgemtl.bench.document import as_document, read_report
    from edgemtl.bench.gate import judge, parse_gates
    from edgemtl.bench.suite import BenchSettings
    from edgemtl.bench.suite import bench as measure
    from edgemtl.runtime.video import parse_keyframes

    gates = parse_gates(minimum=minimum or (), maximum=maximum or (), max_regress=max_regress or ())
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
    report = measure(bundle or newest("bundle"), settings)
    _print(report, as_json=as_json, out=out)
    _gate(judge(as_document(report), gates, baseline=base))


@app.command()
def run(
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    images: Annotated[list[Path], typer.Argument(help="Pictures, or .npy arrays.")],
    out: Annotated[Path, typer.Option(help="Where to write predictions.")] = Path("predictions"),
    task: Annotated[list[str] | None, typer.Option(help="A task; repeat for several. Default: all.")] = None,
    threads: Threads = None,
) -> None:
    """Predict for images: a picture and an .npz file of the raw outputs for each."""
    from edgemtl.predict import predict

    for path in predict(bundle, images, out, tasks=task, threads=threads):
        typer.echo(str(path))


@app.command()
def inspect(
    subject: Annotated[str, typer.Argument(metavar="RECIPE|RUN|BUNDLE")],
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Show stages and groups with parameters, MACs and bytes, and which layers stay plain and why."""
    from edgemtl import workflow

    _print(workflow.inspect(subject, overrides or ()), as_json=as_json)


@app.command()
def compare(
    reports: Annotated[list[Path], typer.Argument(help="JSON reports of bench, evaluate or verify.")],
    force: Annotated[bool, typer.Option("--force", help="Even if settings or devices differ.")] = False,
    as_json: Json = False,
) -> None:
    """Put reports side by side; refuses those that were not measured alike."""
    from edgemtl.bench.compare import compare as side_by_side

    _print(side_by_side(reports, force=force), as_json=as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Show what of Python, PyTorch, TensorRT, GPU and board is there, what is missing and how to get it."""
    from edgemtl.doctor import diagnose

    diagnosis = diagnose()
    _print(diagnosis, as_json=as_json)
    if broken := diagnosis.broken:
        names = ", ".join(broken)
        raise SetupError("doctor", expected="nothing broken", found=names, fix="See what is listed with it.")


@recipes_app.command("ls")
def recipes_ls() -> None:
    """List the recipes that ship."""
    for name, path in recipes().items():
        typer.echo(f"{name:20} {path.read_text().partition(chr(10))[0].lstrip('# ')}")


@recipes_app.command("cp")
def recipes_cp(name: str, destination: Path) -> None:
    """Copy a recipe, to change it."""
    target = destination / f"{name}.yaml" if destination.is_dir() else destination
    _refuse(target.exists(), str(target), "a file that does not exist")
    shutil.copyfile(find_recipe(name), target)
    typer.echo(str(target))


@recipes_app.command("check")
def recipes_check(recipe: RecipeName, overrides: Overrides = None) -> None:
    """Check a recipe and print it with every default written out."""
    from edgemtl.recipe import dump, load
    from edgemtl.run import build_model

    loaded = load(find_recipe(recipe), overrides or ())
    build_model(loaded)
    typer.echo(dump(loaded), nl=False)


@data_app.command("check")
def data_check(
    recipe: RecipeName,
    overrides: Overrides = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Images of each split. Default: all.")] = None,
    as_json: Json = False,
) -> None:
    """Read every sample of a recipe's data and say what is in it."""
    from edgemtl import workflow
    from edgemtl.recipe import load

    _print(*workflow.check_data(load(find_recipe(recipe), overrides or ()), limit), as_json=as_json)


def main() -> None:
    """The entry point: errors that a user can mend are one line and an exit code."""
    try:
        app()
    except EdgemtlError as error:
        if "--debug" in sys.argv:
            raise
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)


def _print(*reports: msgspec.Struct, as_json: bool, out: Path | None = None) -> None:
    """Reports for a person, or as one JSON document for a script; the latter also into a file."""
    document = reports[0] if len(reports) == 1 else reports
    text = json_bytes(document)
    if out is not None:
        with replacing(out) as draft:
            draft.write_bytes(text)
    if as_json:
        typer.echo(text.decode(), nl=False)
        return
    from rich.console import Console

    from edgemtl.report.views import view

    console = Console()
    for report in reports:
        console.print(view(report))


def _gate(verdicts: tuple[Verdict, ...]) -> None:
    """Show on stderr what the gates found, and fail if one did not pass."""
    if not verdicts:
        return
    from rich.console import Console

    from edgemtl.report.tables import gates_table

    Console(stderr=True).print(gates_table(verdicts))
    if failed := [verdict.gate for verdict in verdicts if not verdict.passed]:
        raise GateError(
            "gates", expected="all to pass", found=f"{', '.join(failed)} failed", fix="See the table."
        )


def _refuse(condition: bool, where: str, expected: str) -> None:
    if condition:
        raise RecipeError(where, expected=expected, found="something else", fix="See --help.")
