"""Starts training in one process or several: opens data, lays out the run, hands the trainer its parts."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
from lightning_fabric import Fabric
from torch.multiprocessing.spawn import ProcessException

from edgemtl.build import build_model
from edgemtl.collapse import fold
from edgemtl.core.errors import DataError, EdgemtlError, TrainingError, UsageError, nearest
from edgemtl.core.files import claim, replacing
from edgemtl.core.locate import RUNS
from edgemtl.core.report import SUMMARY, Observer
from edgemtl.data.base import Batch, Dataset
from edgemtl.data.loader import steps_per_epoch
from edgemtl.model import MultitaskModel, check_size
from edgemtl.recipe import Recipe
from edgemtl.run import Run, is_run
from edgemtl.tasks import Task
from edgemtl.training.distill import Distiller
from edgemtl.training.fabric import leave, make_fabric
from edgemtl.training.trainer import Splits, Trainer
from edgemtl.twins import open_twins

_LOG = logging.getLogger(__name__)
SAMPLES = 8  # validation images that a run keeps for certificates, golden samples and pictures
OpenObserver = Callable[[], AbstractContextManager[Observer | None]]


def start(recipe: Recipe, out: Path | None, observe: OpenObserver) -> Run:
    """Train a recipe into a new run, in as many processes as it asks for. See ``workflow.train``."""
    return _launch(make_fabric(recipe.training), _train_new, recipe, out, observe)


def go_on(run: Run, observe: OpenObserver) -> Run:
    """Train a run from its checkpoint to its end. See ``workflow.resume``."""
    return _launch(make_fabric(run.recipe.training), _train_on, run.path, observe)


def train_into(recipe: Recipe, path: Path, observe: OpenObserver) -> Run:
    """Train a recipe into a run at ``path``, or go on with the one there: what is killed is called again."""
    return _launch(make_fabric(recipe.training), _train_into, recipe, path, observe)


def rehearse(recipe: Recipe, out: Path | None = None) -> None:
    """Refuse all that ``start`` refuses before it lays out a run, damaged files but the first excepted.

    Raises:
        UsageError, DataError, SetupError: as ``workflow.train``.
    """
    if out is not None and out.exists():
        _check_empty(out)
    recipe, splits = open_splits(recipe)
    _trainer(make_fabric(recipe.training), recipe, _model(recipe, splits), splits, RUNS / recipe.name)


def is_main_process() -> bool:
    """Whether this process speaks for all: torchrun starts the whole command once for each of them."""
    return os.environ.get("RANK", "0") == "0"


def _launch(fabric: Fabric, function: Callable[..., Path], *args: object) -> Run:
    with TemporaryDirectory() as folder:
        try:
            telling = partial(_telling, folder=Path(folder), function=function, args=args)
            return Run.open(fabric.launch(telling))
        except ProcessException as error:
            for told in sorted(Path(folder).glob("[0-9]*")):
                raise pickle.loads(told.read_bytes()) from error
            *_, last = str(error).strip().splitlines()
            raise TrainingError(
                f"training process {error.error_index}",
                expected="to finish",
                found=last,
                fix="Mend this cause; with --resume training goes on from its last checkpoint.",
            ) from error


def _telling(
    fabric: Fabric, *, folder: Path, function: Callable[..., Path], args: tuple[object, ...]
) -> Path:
    """Call a function in a training process. Of an error torch tells the main process only the traceback, as
    text; so what a user can mend is left in ``folder``."""
    try:
        path = function(fabric, *args)
    except EdgemtlError as error:
        with replacing(folder / str(fabric.local_rank)) as draft:
            draft.write_bytes(pickle.dumps(error))
        raise
    leave(fabric)
    return path


def _train_new(fabric: Fabric, recipe: Recipe, out: Path | None, observe: OpenObserver) -> Path:
    recipe, splits = _read_splits(recipe)
    model = _model(recipe, splits)
    with _claimed(fabric, recipe.name, out) as path:
        trainer = _trainer(fabric, recipe, model, splits, path)
        if fabric.global_rank == 0:
            Run.create(path, recipe, model.plan, _samples(splits.validation))
    return _fit(fabric, Run(path, recipe), trainer, observe)


def _train_on(fabric: Fabric, path: Path, observe: OpenObserver) -> Path:
    run = Run.open(path)
    _, splits = _read_splits(run.recipe)
    # A run that was killed before its first checkpoint begins again.
    model = build_model(run.recipe, pretrained=not run.begun)
    return _fit(fabric, run, _trainer(fabric, run.recipe, model, splits, path), observe)


def _train_into(fabric: Fabric, recipe: Recipe, path: Path, observe: OpenObserver) -> Path:
    # The main process decides for all: others may come when it has laid out the run already.
    exists = fabric.broadcast(is_run(path))
    return _train_on(fabric, path, observe) if exists else _train_new(fabric, recipe, path, observe)


def _model(recipe: Recipe, splits: Splits) -> MultitaskModel:
    model = build_model(recipe, pretrained=True)
    for size in {splits.train.size, splits.augment.crop or splits.train.size, splits.validation.size}:
        check_size(model, size)
    return model


@contextmanager
def _claimed(fabric: Fabric, name: str, out: Path | None) -> Iterator[Path]:
    """A folder that no other training takes: ``out``, or the first free one of runs/NAME, runs/NAME-2, ... If
    the block fails before anything is in it, it goes again.

    Raises:
        UsageError: something is in ``out`` already.
        SetupError: it cannot be made.
    """
    path = fabric.broadcast(_claim(name, out) if fabric.global_rank == 0 else Path())
    try:
        yield path
    except BaseException:
        with suppress(OSError):
            path.rmdir()
        raise


def _claim(name: str, out: Path | None) -> Path:
    if out is None:
        names = (name if n == 1 else f"{name}-{n}" for n in count(1))
        return next(path for path in map(RUNS.joinpath, names) if claim(path))
    if not claim(out):
        _check_empty(out)
    return out


def _check_empty(out: Path) -> None:
    if not out.is_dir() or any(out.iterdir()):
        raise UsageError(
            "--out", expected="a folder that does not exist or is empty", found=str(out), fix="Name another."
        )


def _distiller(recipe: Recipe, model: MultitaskModel, splits: Splits) -> Distiller | None:
    spec = recipe.training.distill
    if spec is None:
        return None
    twins = open_twins(Path(spec.teachers).expanduser(), recipe.tasks)
    teachers = {task: fold(twin.trained())[0] for task, twin in twins.items()}  # folded: faster, and exact
    return spec.build(model, teachers, splits.augment.crop or splits.train.size)


def _trainer(fabric: Fabric, recipe: Recipe, model: MultitaskModel, splits: Splits, path: Path) -> Trainer:
    return Trainer(
        fabric,
        model,
        recipe.balancing.build(tuple(recipe.tasks)),
        recipe.training,
        splits,
        seed=recipe.seed,
        folder=path,
        distiller=_distiller(recipe, model, splits),
    )


def _fit(fabric: Fabric, run: Run, trainer: Trainer, observe: OpenObserver) -> Path:
    with observe() if fabric.global_rank == 0 else nullcontext() as observer:
        if run.begun:
            trainer.restore()
        try:
            found = trainer.fit(observer)
        except KeyboardInterrupt:
            _LOG.warning("%s: interrupted; %s", run.path, run.going_on)
            raise
    if fabric.global_rank == 0:
        splits = trainer.splits
        split = "holdout" if splits.select else "val"
        run.save_json(SUMMARY, run.report("checkpoint", split, splits.validation, found.scores))
    return run.path


def open_splits(recipe: Recipe) -> tuple[Recipe, Splits]:
    """The splits to train and validate on, and the recipe with its labels written out.

    Raises:
        DataError: the data are missing, damaged, too few or too small, or have no label for a task, or not of
        its kind and classes, or what is held out is of another size than ``val``.
    """
    data = recipe.data
    training = data.dataset("train")
    select = "holdout" in data.splits
    tasks: dict[str, Task] = {}
    for name, task in recipe.tasks.items():
        info = training.labels.get(task.label_name)
        if info is None:
            raise DataError(
                f"$.tasks.{name}",
                expected=f"a label `{task.label_name}` in the data",
                found="none",
                fix=nearest(task.label_name, training.labels),
            )
        task.check_label(info.kind, info.names)
        tasks[name] = task.named(info.names)
    recipe = msgspec.structs.replace(recipe, tasks=tasks)
    data.augment.check(training.size)
    steps_per_epoch(training, recipe.training.batch)
    val = data.dataset("val")
    held = data.dataset("holdout") if select else val
    if held.size != val.size:
        raise DataError(
            "$.data",
            expected="images held out of one size with those of `val`, for which the network is deployed",
            found=f"{list(held.size)} and {list(val.size)}",
            fix="Set `size` in the recipe's data.",
        )
    for split, dataset in {"train": training, "val": val}.items():
        _check_labeled(split, dataset, recipe.tasks)
    return recipe, Splits(training, held, data.augment, select)


def _check_labeled(split: str, dataset: Dataset, tasks: Mapping[str, Task]) -> None:
    """Look for a valid pixel of every task. The first sample has them, as a rule; where few have, they may
    lie together, so the others come in random order."""
    waiting = {name: task.label_name for name, task in tasks.items()}
    others = np.random.default_rng(0).permutation(len(dataset))
    for sample in (dataset[int(index)] for index in (0, *others)):
        for name, label in list(waiting.items()):
            if dataset.labels[label].valid(sample.labels[label]).any():
                del waiting[name]
        if not waiting:
            return
    name, label = next(iter(waiting.items()))
    raise DataError(
        f"$.tasks.{name}",
        expected=f"a valid pixel of the label `{label}` in the split {split}",
        found=f"none in {len(dataset)} images",
        fix="Check what marks invalid pixels with `edgemtl data check`, or leave the task out.",
    )


def _read_splits(recipe: Recipe) -> tuple[Recipe, Splits]:
    """``open_splits``, and what stays of them in memory is there before workers fork or a run is laid out."""
    recipe, splits = open_splits(recipe)
    splits.train.preload()
    splits.validation.preload()
    return recipe, splits


def _samples(dataset: Dataset) -> Batch:
    """A few samples spread evenly over a split."""
    chosen = np.linspace(0, len(dataset) - 1, min(SAMPLES, len(dataset))).astype(int)
    return Batch.of([dataset[int(index)] for index in chosen])
