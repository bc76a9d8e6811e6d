"""The verbs of the desk: train, evaluate, collapse, export. Each needs only the directory that the one before
it wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from edgemtl.collapse import CollapsedModel
from edgemtl.collapse import collapse as collapse_model
from edgemtl.core.bundle import MANIFEST, Manifest, read_manifest
from edgemtl.core.errors import DataError, RecipeError
from edgemtl.core.inspection import DataCheck, Inspection
from edgemtl.core.locate import find_recipe
from edgemtl.core.report import EvalReport, Scores, delta_m
from edgemtl.data.base import Dataset
from edgemtl.data.check import check
from edgemtl.data.loader import eval_batches
from edgemtl.export import Export, write_bundle
from edgemtl.illustrate import illustrate
from edgemtl.inspection import inspect_bundle, inspect_model
from edgemtl.kernels import composed
from edgemtl.launch import Watch, go_on, is_main_process, open_splits, start
from edgemtl.recipe import Recipe, load
from edgemtl.run import Run, build_model
from edgemtl.runtime.runner import BundleRunner
from edgemtl.tasks import Task
from edgemtl.training.evaluate import Predict
from edgemtl.training.evaluate import evaluate as evaluate_network


def train(recipe: Recipe, out: Path | None = None, *, watch: Watch = nullcontext) -> Run:
    """Train a recipe into a new run: ``out``, or runs/NAME, or runs/NAME-2 where that is taken.

    ``watch`` opens an observer in the process that trains, such as the console.

    Raises:
        RecipeError: the recipe does not fit its data or this machine, or ``out`` is taken.
        DataError: the data are missing or damaged.
        TrainingError: a loss is not finite.
        SetupError: the run cannot be written.
    """
    return _illustrated(start(recipe, out, watch))


def resume(path: Path, *, watch: Watch = nullcontext) -> Run:
    """Go on with a run where it was killed, to the weights that it would have had.

    Raises:
        DataError: it is no run, has no checkpoint, or its data are gone.
        TrainingError, SetupError: as ``train``.
    """
    return _illustrated(go_on(Run.open(path), watch))


def collapse(run: Run, *, weights: str = "last", evaluate: bool = True) -> CollapsedModel:
    """Collapse a run's network into run/collapsed; with ``evaluate``, measure both networks on the val split.

    Raises:
        GateError: the collapsed network does not compute the same. Nothing is written.
        DataError: the run has no such weights, or its data are gone.
    """
    trained = run.trained(weights)
    collapsed = collapse_model(trained, run.size, run.samples.image)
    if evaluate:
        dataset = run.recipe.data.dataset("val")
        before = _scores(_eager(trained), run.recipe.tasks, dataset, run.recipe.training.batch)
        after = _scores(_eager(collapsed.model), run.recipe.tasks, dataset, run.recipe.training.batch)
        scores = {
            task: {name: (value, after[task][name]) for name, value in table.items()}
            for task, table in before.items()
        }
        certificate = msgspec.structs.replace(collapsed.certificate, split="val", scores=scores)
        collapsed = CollapsedModel(collapsed.model, certificate)
    run.save_collapsed(collapsed)
    return collapsed


def export(run: Run, out: Path | None = None, spec: Export | None = None) -> tuple[Path, Manifest]:
    """Export a collapsed run as a bundle: ``out``, or run/bundles/TARGET-fp32.

    Raises:
        DataError: the run was not collapsed.
        GateError: its certificate is not good.
        SetupError: the bundle cannot be written.
    """
    spec = spec or Export()
    collapsed = run.collapsed()
    scores = collapsed.certificate.scores
    folder = out or run.path / "bundles" / f"{spec.target}-fp32"
    manifest = write_bundle(
        collapsed,
        folder,
        name=run.recipe.name,
        images=run.samples.image,
        spec=spec,
        accuracy={
            task: {name: after for name, (_, after) in table.items()} for task, table in scores.items()
        },
        split=collapsed.certificate.split,
    )
    return folder, manifest


def evaluate(
    subject: Path,
    *,
    network: str = "",
    split: str = "val",
    baseline: Path | None = None,
    weights: str = "last",
) -> EvalReport:
    """Metrics of a run's checkpoint or collapsed network (the default where there is one), or of a bundle
    that lies in its run, through the bundle's runtime. ``baseline`` is a run, or a report of an evaluation.

    Raises:
        DataError: the subject, its data or the baseline are missing or damaged.
        RecipeError: there is no such network.
    """
    if (subject / MANIFEST).is_file():
        run = Run.open(_run_of(subject))
        manifest = read_manifest(subject)
        kind, predict, batch = "bundle", _runner(subject, manifest), manifest.input.batch[1]
    else:
        run, batch = Run.open(subject), 0
        kind, predict = _network(run, network, weights)
    dataset = run.recipe.data.dataset(split)
    scores = _scores(predict, run.recipe.tasks, dataset, batch or run.recipe.training.batch)
    report = run.report(kind, split, len(dataset), scores, subject)
    return report if baseline is None else _against(report, baseline)


def inspect(subject: str, overrides: Sequence[str] = ()) -> Inspection:
    """The parts of a recipe's network, of a run's, or of a bundle.

    Raises:
        RecipeError, DataError, BundleError: there is no such subject, or it is damaged.
    """
    path = Path(subject)
    if (path / MANIFEST).is_file():
        return inspect_bundle(path.name, read_manifest(path))
    if path.is_dir():
        run = Run.open(path)
        return inspect_model(subject, build_model(run.recipe), run.size)
    recipe = load(find_recipe(subject), overrides)
    return inspect_model(subject, build_model(recipe), recipe.data.dataset("train").size)


def check_data(recipe: Recipe, limit: int | None = None) -> Iterator[DataCheck]:
    """Read every split of a recipe's data, and check that its tasks find their labels.

    Raises:
        DataError: the first sample that is missing, damaged or breaks a promise; or as ``open_splits``.
    """
    open_splits(recipe)
    for split in recipe.data.splits:
        yield check(recipe.data.dataset(split), split, limit)


def _illustrated(run: Run) -> Run:
    if is_main_process():
        illustrate(run)
    return run


def _run_of(bundle: Path) -> Path:
    for folder in bundle.resolve().parents:
        if (folder / "env.json").is_file():
            return folder
    raise DataError(
        bundle,
        expected="a bundle inside its run, which names the data",
        found="none above",
        fix="Copy it back there.",
    )


def _network(run: Run, network: str, weights: str) -> tuple[str, Predict]:
    kind = network or ("collapsed" if (run.path / "collapsed").is_dir() else "checkpoint")
    if kind == "collapsed":
        return kind, _eager(run.collapsed().model)
    if kind == "checkpoint":
        return kind, _eager(run.trained(weights))
    raise RecipeError(
        "--network",
        expected="checkpoint or collapsed",
        found=f"`{network}`",
        fix="Name a bundle's folder to evaluate its files.",
    )


def _eager(model: torch.nn.Module) -> Predict:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.eval().to(device)
    return lambda image: {task: output.cpu() for task, output in model(image.to(device)).items()}


def _runner(bundle: Path, manifest: Manifest) -> Predict:
    runner = BundleRunner(bundle, manifest=manifest)

    def predict(image: Tensor) -> Mapping[str, Tensor]:
        return {task: torch.from_numpy(array) for task, array in runner(image.numpy()).items()}

    return predict


def _scores(predict: Predict, tasks: Mapping[str, Task], dataset: Dataset, batch: int) -> Scores:
    with composed():
        return evaluate_network(predict, tasks, eval_batches(dataset, batch=batch)).scores


def _against(report: EvalReport, baseline: Path) -> EvalReport:
    path = baseline / "summary.json" if baseline.is_dir() else baseline
    try:
        base = msgspec.json.decode(path.read_bytes(), type=EvalReport)
    except (OSError, msgspec.DecodeError) as error:
        raise DataError(
            path,
            expected="a report of `edgemtl evaluate --json`, or a run",
            found=str(error),
            fix="Evaluate it first.",
        ) from error
    overall, by_task = delta_m(report.tasks, base.tasks, report.metrics)
    return msgspec.structs.replace(report, baseline=str(baseline), delta_m=overall, delta_m_tasks=by_task)
