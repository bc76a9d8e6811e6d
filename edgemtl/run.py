"""Run: the directory that training writes and that collapse, export and evaluate need, and nothing else.

recipe.yaml          resolved: every default and label written out
plan.json            the sharing plan
env.json             format, versions and machine
samples.safetensors  a few validation images with labels, for certificates, golden samples and pictures
metrics.jsonl        a line an epoch
state.pt             the checkpoint to resume from
weights/             last, and best where it may be chosen
collapsed/           the plain network's weights and its certificate
plots/               curves and samples
summary.json         the evaluation at the end of training
bundles/             what was exported
twins/               a run for each task alone, of the same network
"""

from __future__ import annotations

import logging
import platform
import sys
from functools import cached_property
from importlib import metadata
from pathlib import Path

import msgspec
import safetensors
import torch

from edgemtl import __version__, recipe
from edgemtl.build import build_model
from edgemtl.collapse import CollapsedModel, fold
from edgemtl.core.bundle import sha256
from edgemtl.core.errors import DataError, UsageError, nearest
from edgemtl.core.files import json_bytes, replacing
from edgemtl.core.inspection import Certificate
from edgemtl.core.plan import SharingPlan
from edgemtl.core.report import SUMMARY, EvalReport, Scores, timestamp
from edgemtl.data.base import Batch, Dataset
from edgemtl.kernels import Plain
from edgemtl.model import MultitaskModel
from edgemtl.recipe import Recipe
from edgemtl.tensors import read_tensors, write_tensors
from edgemtl.training.checkpoint import STATE
from edgemtl.training.log import MetricsLog, Record
from edgemtl.training.trainer import METRICS

FORMAT = 1
WEIGHTS = ("last", "best")
_LOG = logging.getLogger(__name__)
_RESTORE = "Copy the run again from where it was trained, or train again."
ENVIRONMENT, SAMPLES = "env.json", "samples.safetensors"
_VERSIONED = ("torch", "numpy", "onnx", "onnxruntime", "lightning-fabric", "msgspec", "safetensors")


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """What a run was made with."""

    format: int = FORMAT
    edgemtl: str
    python: str
    platform: str
    threads: int
    versions: dict[str, str]
    command: list[str]


class Run:
    """A run's directory; open an existing one with ``Run.open``."""

    def __init__(self, path: Path, recipe: Recipe) -> None:
        self.path, self.recipe = path, recipe

    @classmethod
    def create(cls, path: Path, recipe_: Recipe, plan: SharingPlan, samples: Batch) -> Run:
        """Lay out a new run; ``path`` holds nothing yet.

        Raises:
            SetupError: the folder cannot be written.
        """
        with replacing(path) as draft:
            draft.mkdir()
            (draft / "recipe.yaml").write_text(recipe.dump(recipe_))
            (draft / "plan.json").write_bytes(json_bytes(plan))
            (draft / ENVIRONMENT).write_bytes(json_bytes(environment()))
            tensors = {"image": samples.image, **{f"label.{k}": v for k, v in samples.labels.items()}}
            write_tensors(tensors, draft / SAMPLES, {"ids": "\n".join(samples.ids)})
        return cls(path, recipe_)

    @classmethod
    def open(cls, path: Path) -> Run:
        """Open a run.

        Raises:
            DataError: it is no run, or one of another version.
        """
        if not is_run(path):
            raise DataError(
                path, expected="a run", found=f"no {ENVIRONMENT}", fix="Name the folder that `train` wrote."
            )
        env = path / ENVIRONMENT
        try:
            found = msgspec.json.decode(env.read_bytes(), type=Environment)
        except msgspec.DecodeError as error:
            raise DataError(env, expected="facts of a run", found=str(error), fix="Train again.") from error
        if found.format != FORMAT:
            raise DataError(
                path,
                expected=f"run format {FORMAT}",
                found=f"format {found.format}, written by edgemtl {found.edgemtl}",
                fix=f"Use edgemtl {found.edgemtl}, or train again.",
            )
        try:
            return cls(path, recipe.load(path / "recipe.yaml"))
        except UsageError as error:
            raise DataError(
                path / "recipe.yaml", expected="the recipe of this run", found=str(error), fix=_RESTORE
            ) from error

    @cached_property
    def samples(self) -> Batch:
        """A few validation images with labels.

        Raises:
            DataError: the file is missing or damaged.
        """
        path = self.path / SAMPLES
        tensors = read_tensors(path, fix=_RESTORE)
        with safetensors.safe_open(path, framework="pt") as file:
            ids = (file.metadata() or {}).get("ids", "").split("\n")
        image = tensors.pop("image", None)
        if image is None or len(image) != len(ids):
            raise DataError(path, expected="images with their ids", found="other tensors", fix=_RESTORE)
        labels = {name.removeprefix("label."): value for name, value in tensors.items()}
        return Batch(tuple(ids), image, labels)

    @property
    def metrics(self) -> list[Record]:
        """A record for each epoch."""
        return MetricsLog(self.path / METRICS).read()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images that the network is evaluated and deployed on."""
        return self.samples.image.shape[-2], self.samples.image.shape[-1]

    @property
    def finished(self) -> bool:
        """Whether it was trained to its end."""
        return is_finished(self.path)

    @property
    def begun(self) -> bool:
        """Whether there is, or should be, a checkpoint to go on from."""
        return self.finished or (self.path / STATE).is_file()

    @property
    def summary(self) -> EvalReport:
        """The evaluation at the end of training.

        Raises:
            DataError: the run is not finished, or the file is damaged.
        """
        return read_evaluation(self.path / SUMMARY)

    def trained(self, weights: str = "last") -> MultitaskModel:
        """The network with the weights of training, on the CPU, in eval mode.

        Raises:
            DataError: there are no such weights, or they are damaged or of another network.
            UsageError: they are neither the last nor the best.
        """
        path = self._weights(weights)
        if weights == "best" and self.finished and not path.is_file():
            raise DataError(
                path,
                expected="the best weights",
                found="none",
                fix="Only training with data.holdout keeps them.",
            )
        if not (self.finished or path.is_file()):
            raise DataError(path, expected="weights", found="none yet", fix=f"{self.going_on}.")
        model = build_model(self.recipe)
        _load(model, path)
        if not self.finished:
            epochs = f"{len(self.metrics)} of {self.recipe.training.epochs} epochs"
            _LOG.warning("%s: stopped after %s; %s", self.path, epochs, self.going_on)
        return model.eval()

    @property
    def going_on(self) -> str:
        """What messages say of a run that is not finished."""
        return f"`edgemtl train {self.path} --resume` goes on"

    def weights_sha256(self, name: str) -> str:
        """The SHA-256 of the file that ``trained`` reads, or that there is none."""
        path = self._weights(name)
        return sha256(path) if path.is_file() else "no such file"

    def _weights(self, name: str) -> Path:
        if name not in WEIGHTS:
            raise UsageError(
                "--weights", expected="last or best", found=f"`{name}`", fix=nearest(name, WEIGHTS)
            )
        return self.path / "weights" / f"{name}.safetensors"

    def collapsed(self) -> CollapsedModel:
        """The plain network with its certificate.

        Raises:
            DataError: the run was not collapsed, or trained on since, or the files are damaged.
        """
        path = self.path / "collapsed" / "certificate.json"
        if not path.is_file():
            raise DataError(
                self.path,
                expected="a collapsed network with its certificate",
                found="none",
                fix=f"Run `edgemtl collapse {self.path}` first.",
            )
        try:
            certificate = msgspec.json.decode(path.read_bytes(), type=Certificate)
        except msgspec.DecodeError as error:
            raise DataError(
                path, expected="a certificate", found=str(error), fix="Collapse again."
            ) from error
        certificate.check()
        self._check_fresh(certificate)
        # Only its structure counts here, and plain kernels have no factors to initialize.
        plain, _ = fold(build_model(msgspec.structs.replace(self.recipe, kernel=Plain())))
        _load(plain, path.with_name("weights.safetensors"))
        return CollapsedModel(plain, certificate)

    def save_collapsed(self, collapsed: CollapsedModel) -> None:
        """Write collapsed/, as a whole."""
        with replacing(self.path / "collapsed") as draft:
            draft.mkdir()
            write_tensors(collapsed.model.state_dict(), draft / "weights.safetensors")
            (draft / "certificate.json").write_bytes(json_bytes(collapsed.certificate))

    def _check_fresh(self, certificate: Certificate) -> None:
        named = certificate.weights in WEIGHTS  # older ones name none
        if not named or self.weights_sha256(certificate.weights) != certificate.weights_sha256:
            raise DataError(
                self.path / "collapsed",
                expected="the network of this run's weights as they are now",
                found="one of other weights: the run was trained on, or collapsed by an older edgemtl",
                fix=f"Run `edgemtl collapse {self.path}` again.",
            )

    def save_json(self, name: str, value: object) -> None:
        """Write a file of the run."""
        with replacing(self.path / name) as draft:
            draft.write_bytes(json_bytes(value))

    def report(
        self, network: str, split: str, dataset: Dataset, scores: Scores, subject: Path | None = None
    ) -> EvalReport:
        """Metrics that were measured of this run's network on a split, as a report."""
        return EvalReport(
            subject=str(subject or self.path),
            network=network,
            data=self.recipe.data.name,
            split=split,
            images=len(dataset),
            size=dataset.size,
            created=timestamp(),
            tasks={task: dict(table) for task, table in scores.items()},
            metrics={name: task.metrics for name, task in self.recipe.tasks.items()},
        )


def is_run(path: Path) -> bool:
    """Whether a run was laid out there."""
    return (path / ENVIRONMENT).is_file()


def is_finished(path: Path) -> bool:
    """Whether there is a run that was trained to its end."""
    return (path / SUMMARY).is_file()


def read_evaluation(path: Path) -> EvalReport:
    """A report of an evaluation.

    Raises:
        DataError: there is none, or it is damaged.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=EvalReport)
    except (OSError, msgspec.DecodeError) as error:
        raise DataError(
            path,
            expected="a report of `edgemtl evaluate --json`, or a run that is finished",
            found=str(error),
            fix="Evaluate, or train to the end, first.",
        ) from error


def environment() -> Environment:
    """Facts of this process."""
    installed = {d.metadata["Name"].lower(): d.version for d in metadata.distributions()}
    return Environment(
        edgemtl=__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        threads=torch.get_num_threads(),
        versions={name: installed[name] for name in _VERSIONED if name in installed},
        command=[Path(sys.argv[0]).name, *sys.argv[1:]],
    )


def _load(model: MultitaskModel, path: Path) -> None:
    tensors = read_tensors(path, fix=_RESTORE)
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            fix = "Training diverged: train again, at a lower rate."
            raise DataError(path, expected="finite weights", found=f"NaN or infinity in {name}", fix=fix)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise DataError(
            path,
            expected="the weights of the network that recipe.yaml describes",
            found=" ".join(str(error).split())[:200],
            fix="Train again, or restore the recipe that these weights were trained with.",
        ) from error
