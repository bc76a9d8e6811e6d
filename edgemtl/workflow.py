"""The verbs of the desk but `evaluate`. Each needs only the directory that the one before it wrote."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import msgspec

from edgemtl.build import build_model
from edgemtl.collapse import CollapsedModel
from edgemtl.collapse import collapse as collapse_model
from edgemtl.core.bundle import MANIFEST, Manifest, read_manifest
from edgemtl.core.errors import DataError, UsageError
from edgemtl.core.inspection import DataCheck, Inspection
from edgemtl.core.locate import find_recipe
from edgemtl.data.base import Dataset
from edgemtl.data.check import check
from edgemtl.evaluation import score_network
from edgemtl.export import Export, write_bundle
from edgemtl.illustrate import illustrate
from edgemtl.inspection import inspect_bundle, inspect_model
from edgemtl.launch import OpenObserver, go_on, is_main_process, open_splits, start, train_into
from edgemtl.material import material_of
from edgemtl.recipe import Recipe, load
from edgemtl.run import Run, is_finished, is_run
from edgemtl.twins import TWINS, twin_of

_LOG = logging.getLogger(__name__)


def train(
    recipe: Recipe, out: Path | None = None, *, twins: bool = False, observe: OpenObserver = nullcontext
) -> Run:
    """Train a recipe into a new run: ``out``, or runs/NAME, or runs/NAME-2 where that is taken.

    ``twins``: then its twins too. ``observe`` opens an observer in the process that trains, as the console.

    Raises:
        UsageError: the recipe does not fit its data or this machine, or ``out`` is taken.
        DataError: the data are missing or damaged.
        TrainingError: a loss is not finite.
        SetupError: the run cannot be written.
    """
    run = _illustrated(start(recipe, out, observe))
    return _with_twins(run, observe) if twins else run


def resume(path: Path, *, twins: bool = False, observe: OpenObserver = nullcontext) -> Run:
    """Go on with a run where it was killed, to the weights that it would have had.

    With ``twins``, whichever of the run and its twins are finished stay as they are.

    Raises:
        DataError: it is no run, its checkpoint or its data are gone, or a twin there is of another recipe.
        TrainingError, SetupError: as ``train``.
    """
    run = Run.open(path)
    if not (twins and run.finished):
        run = _illustrated(go_on(run, observe))
    return _with_twins(run, observe) if twins else run


def collapse(run: Run, *, weights: str = "last", evaluate: bool = True) -> CollapsedModel:
    """Collapse a run's network into run/collapsed; with ``evaluate``, measure both networks on the val split.

    Raises:
        GateError: the collapsed network does not compute the same, or a metric is not finite. Nothing is
            written.
        DataError: the run has no such weights, or its data are gone.
    """
    dataset = _val(run) if evaluate else None
    sha256 = run.weights_sha256(weights)  # before they are read: training may go on meanwhile
    trained = run.trained(weights)
    collapsed = collapse_model(trained, run.size, run.samples.image)
    certificate = msgspec.structs.replace(collapsed.certificate, weights=weights, weights_sha256=sha256)
    if dataset is not None:
        before = score_network(trained, run.recipe, dataset)
        after = score_network(collapsed.model, run.recipe, dataset)
        scores = {
            task: {name: (value, after[task][name]) for name, value in table.items()}
            for task, table in before.items()
        }
        certificate = msgspec.structs.replace(certificate, split="val", scores=scores)
    collapsed = CollapsedModel(collapsed.model, certificate)
    run.save_collapsed(collapsed)
    return collapsed


def export(run: Run, out: Path | None = None, spec: Export | None = None) -> tuple[Path, Manifest]:
    """Export a collapsed run as a bundle: ``out``, or run/bundles/TARGET-PRECISION, with the JetPack and DLA
    where they are named. A bundle that stood there is replaced.

    Raises:
        DataError: the run was not collapsed, or has too few images to calibrate on.
        GateError: its certificate is not good, or lower precision breaks the budget.
        UsageError: the target cannot run the network.
        SetupError: the bundle cannot be written.
    """
    spec = spec or Export()
    collapsed = run.collapsed()
    scores = collapsed.certificate.scores
    folder = out or run.path / "bundles" / spec.label
    stood = (folder / MANIFEST).is_file()
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
        material=material_of(run, spec, collapsed.certificate.split),
    )
    if stood:
        _LOG.warning("%s: the bundle that stood there, and what was built from it, is replaced", folder)
    return folder, manifest


def inspect(subject: str, overrides: Sequence[str] = ()) -> Inspection:
    """The parts of a recipe's network, of a run's, or of a bundle.

    Raises:
        UsageError: overrides are given for what is no recipe; or as DataError.
        DataError, BundleError: there is no such subject, or it is damaged.
    """
    path = Path(subject)
    if path.is_dir() and overrides:
        raise UsageError(
            subject,
            expected="a recipe, where there are overrides",
            found=", ".join(overrides),
            fix="Leave them out: a run or bundle is as it is.",
        )
    if (path / MANIFEST).is_file():
        return inspect_bundle(path.name, read_manifest(path))
    if path.is_dir():
        run = Run.open(path)
        return inspect_model(subject, build_model(run.recipe), run.size)
    recipe = load(find_recipe(subject), overrides)
    return inspect_model(subject, build_model(recipe), recipe.data.image_size)


def check_data(recipe: Recipe, limit: int | None = None) -> Iterator[DataCheck]:
    """Read every split of a recipe's data, and check that its tasks find their labels.

    Raises:
        DataError: the first sample that is missing, damaged or breaks a promise; or as ``open_splits``.
    """
    open_splits(recipe)
    for split in recipe.data.splits:
        yield check(recipe.data.dataset(split), split, limit)


def _val(run: Run) -> Dataset:
    try:
        return run.recipe.data.dataset("val")
    except DataError as error:
        fix = f"{error.fix} Or collapse with --no-evaluate."
        raise DataError(error.where, expected=error.expected, found=error.found, fix=fix) from error


def _illustrated(run: Run) -> Run:
    if is_main_process():
        illustrate(run)
    return run


def _with_twins(run: Run, observe: OpenObserver) -> Run:
    for task in run.recipe.tasks:
        recipe, path = twin_of(run.recipe, task), run.path / TWINS / task
        if is_run(path) and Run.open(path).recipe != recipe:
            raise DataError(
                path,
                expected="a twin of this run",
                found="one of another recipe",
                fix="Move it away to train it anew, or restore recipe.yaml.",
            )
        if not is_finished(path):
            _illustrated(train_into(recipe, path, observe))
    return run
