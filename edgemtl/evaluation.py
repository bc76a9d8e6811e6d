"""The verb evaluate: what a checkpoint, a collapsed network or a bundle scores, and against whom."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from edgemtl.core.bundle import MANIFEST, read_manifest
from edgemtl.core.delta_m import against
from edgemtl.core.errors import DataError, UsageError
from edgemtl.core.report import EVALUATED_ON, EvalReport, Scores
from edgemtl.data.base import Dataset
from edgemtl.data.loader import eval_batches
from edgemtl.kernels import composed
from edgemtl.recipe import Recipe
from edgemtl.run import Run, is_run, read_evaluation
from edgemtl.runtime.runner import BundleRunner
from edgemtl.runtime.video import Keyframes
from edgemtl.sequences import evaluate_video
from edgemtl.training.evaluate import Predict, of_arrays, score
from edgemtl.twins import TWINS, open_twins

_LOG = logging.getLogger(__name__)


def evaluate(
    subject: Path,
    *,
    network: str = "",
    split: str = "val",
    baseline: Path | None = None,
    weights: str = "",
    rates: Sequence[str] = (),
    keyframes: Keyframes | None = None,
) -> EvalReport:
    """Metrics of a run's checkpoint or collapsed network (the default where there is one), or of a bundle
    that lies in its run, through the bundle's runtime. ``weights``, last (the default) or best, select the
    checkpoint, so ``network`` need not be named beside them. ``baseline`` is a run, a folder of twins, or a
    report of an evaluation; by default the run's own twins, once all are there.

    With ``rates`` (as ``parse_rates`` reads them) or ``keyframes``, what these cost a bundle over a split of
    videos; then the baseline is the bundle with all tasks on every frame.

    Raises:
        DataError: the subject, its data or the baseline are missing or damaged.
        BundleError: a bundle is damaged.
        GateError: a metric is not finite.
        UsageError: there is no such network, a video cannot be run so, or something else is named that would
            not be used.
    """
    if rates or keyframes:
        _refuse_beside("--rates or --keyframes", network=network, weights=weights, baseline=baseline)
        manifest = read_manifest(subject)
        run = Run.open(_run_of(subject))
        return evaluate_video(run, subject, manifest, split=split, rates=rates, keyframes=keyframes)
    if (subject / MANIFEST).is_file():
        _refuse_beside("a bundle", network=network, weights=weights)
        run = Run.open(_run_of(subject))
        kind, predict = "bundle", of_arrays(BundleRunner(subject).run_all)
    else:
        run = Run.open(subject)
        kind, predict = _network(run, network, weights)
    dataset = run.recipe.data.dataset(split)
    scores = _scores(predict, run.recipe, dataset)
    report = run.report(kind, split, dataset, scores, subject)
    return _against_own_twins(report, run) if baseline is None else _against(report, baseline)


def score_network(model: torch.nn.Module, recipe: Recipe, dataset: Dataset) -> Scores:
    """Metrics of a recipe's network over a dataset, on the GPU where there is one."""
    return _scores(_eager(model), recipe, dataset)


def _run_of(bundle: Path) -> Path:
    for folder in bundle.resolve().parents:
        if is_run(folder):
            return folder
    expected = "a bundle inside its run, which names the data"
    raise DataError(bundle, expected=expected, found="none above", fix="Copy it back there.")


def _network(run: Run, network: str, weights: str) -> tuple[str, Predict]:
    own = "checkpoint" if weights or not (run.path / "collapsed").is_dir() else "collapsed"
    kind = network or own
    if kind == "collapsed":
        _refuse_beside("--network collapsed", weights=weights)
        return kind, _eager(run.collapsed().model)
    if kind == "checkpoint":
        return kind, _eager(run.trained(weights or "last"))
    raise UsageError(
        "--network",
        expected="checkpoint or collapsed",
        found=f"`{network}`",
        fix="Name a bundle's folder to evaluate its files.",
    )


def _refuse_beside(what: str, **options: object) -> None:
    for name, value in options.items():
        if value:
            expected = f"nothing beside {what}, which has its own"
            raise UsageError(f"--{name}", expected=expected, found=f"`{value}`", fix=f"Leave out --{name}.")


def _eager(model: torch.nn.Module) -> Predict:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.eval().to(device)
    return lambda image: {task: output.cpu() for task, output in model(image.to(device)).items()}


def _scores(predict: Predict, recipe: Recipe, dataset: Dataset) -> Scores:
    with composed():
        return score(predict, recipe.tasks, eval_batches(dataset, batch=recipe.training.batch))


def _against_own_twins(report: EvalReport, run: Run) -> EvalReport:
    twins = run.path / TWINS
    if not twins.is_dir():
        return report
    try:
        return _against(report, twins)
    except DataError as error:  # nobody asked for the comparison, so it must not cost the metrics
        _LOG.warning("no Delta_m: %s", error)
        return report


def _against(report: EvalReport, baseline: Path) -> EvalReport:
    base: dict[str, dict[str, float]] = {}
    for other in _baseline(baseline, report):
        for name in EVALUATED_ON:
            here, there = getattr(report, name), getattr(other, name)
            if here != there:
                raise DataError(
                    other.subject,
                    expected=f"a baseline on the same {name}, {here}",
                    found=str(there),
                    fix="Evaluate both on the same split of the same data.",
                )
        base |= other.tasks
    return against(report, base, str(baseline))


def _baseline(path: Path, report: EvalReport) -> list[EvalReport]:
    """What a baseline, a run, the twins of the report's tasks or a report itself, scored on its split."""
    if not path.is_dir():
        return [read_evaluation(path)]
    runs = [Run.open(path)] if is_run(path) else open_twins(path, report.tasks).values()
    return [
        run.summary
        if run.summary.split == report.split
        else evaluate(run.path, network="checkpoint", split=report.split)
        for run in runs
    ]
