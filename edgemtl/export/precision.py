"""Precision: the fp32 files of a network become fp16 or int8 ones, part by part.

Everything is decided once, on the graph of all parts: the scales, and the precision of each part. Then the
files of both layouts are made from it, so that they compute the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec
import numpy as np
import onnx
from onnx import ModelProto

from edgemtl.core.bundle import Lowered, ModelFile
from edgemtl.core.errors import GateError, UsageError, nearest
from edgemtl.core.report import Scores
from edgemtl.export.budget import Limit, Metrics, check_budget, choose
from edgemtl.export.calibrate import Calibration, Images, Method, batch_of, calibrate, digest
from edgemtl.export.equalize import correct_bias, equalize
from edgemtl.export.evaluate import evaluator
from edgemtl.export.fp16 import halve
from edgemtl.export.graph import Array, extract, join
from edgemtl.export.int8 import Activations, quantize, quantized_tensors
from edgemtl.export.targets import Precision
from edgemtl.runtime.batches import in_batches, together

WRITTEN: tuple[Precision, ...] = ("fp32", "fp16", "int8")
# A device as far from fp32 as the golden outputs, only the other way, is as good as they are.
_ERRORS = 2
Predict = Callable[[Images], Mapping[str, Array]]
# Scores of what predicts, on so many images of a split, or on all of it.
Measure = Callable[[Predict, int | None], Scores]


class Lowering(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a network is brought to fp16 or int8.

    ``calibration`` on so many ``images`` of the training split, ``equalize`` and ``correct_bias`` are for
    int8. Weights have a scale for each channel, so that equalization has little left to gain: on NYUv2 it
    gained nothing (benchmarks/int8_accuracy.py).
    ``keep`` maps a task (its head) or a segment to the precision that it stays in; with a ``budget``,
    what else must stay is found by measuring.
    """

    calibration: Method = "percentile"
    images: Annotated[int, msgspec.Meta(ge=1)] = 128
    equalize: bool = False
    correct_bias: bool = True
    keep: dict[str, Literal["fp32", "fp16"]] = {}
    budget: tuple[Limit, ...] = ()


class Material(NamedTuple):
    """What lowering needs besides the network.

    ``images``: of the training split, to calibrate on. ``measure``: gives the metrics of a network.
    """

    images: Images | None = None
    measure: Measure | None = None


class Outcome(NamedTuple):
    """What lowering wrote.

    ``outputs``: of the lowered network for the golden images, by task. ``atol``: by task, twice the
    most that one of them differs from fp32, and ``mean_atol`` twice what they do on average. ``scores``: of
    the lowered network, empty where nothing measures.
    """

    report: Lowered
    outputs: Mapping[str, Array]
    atol: dict[str, float]
    mean_atol: dict[str, float]
    scores: Scores


def check_written(precision: Precision) -> None:
    """Raises UsageError: edgemtl cannot write this precision yet, whatever the target can run."""
    if precision not in WRITTEN:
        raise UsageError(
            "--precision",
            expected=f"one that edgemtl writes: {', '.join(WRITTEN)}",
            found=f"`{precision}`",
            fix=f"Use {WRITTEN[-1]}.",
        )


def check_lowering(
    precision: Precision, spec: Lowering, parts: Collection[str], metrics: Metrics, material: Material
) -> None:
    """Refuse what ``lower`` could not do, before anything is written.

    Raises:
        UsageError: ``keep`` or ``budget`` name what is not there, or ``material`` lacks what they need.
    """
    check_budget(spec.budget, metrics)
    if "int8" in _kept(parts, tuple(metrics), precision, spec).values() and material.images is None:
        raise _lacks("int8", "images to calibrate on", "Pass `material` with `images`.")
    if spec.budget and material.measure is None:
        fix = "Collapse with --evaluate, or pass `material` with `measure`."
        raise _lacks("--budget", "a network that was measured when it was collapsed", fix)


def lower(
    parts: Mapping[str, ModelProto],
    files: Sequence[ModelFile],
    folder: Path,
    *,
    precision: Precision,
    spec: Lowering,
    tensorrt: bool,
    macs: Mapping[str, int],
    metrics: Metrics,
    golden: Images,
    material: Material,
) -> Outcome:
    """Replace the fp32 ``files`` in ``folder`` by ones in lower precision.

    Args:
        parts: the fp32 files of the split layout, in the order in which they run; ``macs`` of each.
        precision: of every part that nothing keeps higher.
        tensorrt: whether TensorRT runs the files: it wants symmetric int8, and fp16 for what is kept higher.
            ONNX Runtime on a CPU is fastest with uint8, and slow in fp16.
        golden: [N, 3, H, W] in 0..1.

    Raises:
        GateError: the budget cannot be kept, or the network leaves the range of its precision.
    """
    chosen = _kept(parts, tuple(metrics), precision, spec)
    sensitivity: dict[str, float] = {}
    network = _network(
        join(parts, tuple(metrics)), chosen, spec, "int8" if tensorrt else "uint8", material.images
    )
    measure = material.measure
    if spec.budget and measure is not None:
        chosen, sensitivity = choose(
            chosen,
            higher="fp16" if tensorrt and precision == "int8" else "fp32",
            macs=macs,
            limits=spec.budget,
            metrics=metrics,
            score=lambda precisions, images: measure(_predictor(network.merged(precisions)), images),
        )
    corrected = network.corrected(chosen)
    merged = network.lowered(corrected, chosen)
    for path in (folder / file.path for file in files):
        onnx.save(network.lowered(extract(corrected, onnx.load(path)), chosen), path)
    exact, outputs = _predict_all(network.joined, golden), _predict_all(merged, golden)
    scores = measure(_predictor(merged), None) if measure else {}
    for task, table in scores.items():
        _check_finite(f"metrics of {task}", np.array(list(table.values())))
    return Outcome(
        _report(spec, chosen, sensitivity, network, material.images),
        outputs,
        {task: _ERRORS * float(np.abs(outputs[task] - exact[task]).max()) for task in metrics},
        {task: _ERRORS * float(np.abs(outputs[task] - exact[task]).mean()) for task in metrics},
        scores,
    )


class _Network(NamedTuple):
    """The fp32 graph of all parts and what rounds it."""

    joined: ModelProto
    calibration: Calibration
    activations: Activations
    correct_bias: bool

    def merged(self, precisions: Mapping[str, str]) -> ModelProto:
        """All parts in one file."""
        return self.lowered(self.corrected(precisions), precisions)

    def corrected(self, precisions: Mapping[str, str]) -> ModelProto:
        """The fp32 graph with the biases that go with its rounded weights."""
        means = self.calibration.means
        return correct_bias(self.joined, _of(precisions, "int8"), means) if self.correct_bias else self.joined

    def lowered(self, model: ModelProto, precisions: Mapping[str, str]) -> ModelProto:
        """The corrected graph, or a part of it, in these precisions."""
        ranges = self.calibration.ranges
        return halve(
            quantize(model, _of(precisions, "int8"), ranges, self.activations), _of(precisions, "fp16")
        )


def _network(
    joined: ModelProto,
    precisions: Mapping[str, str],
    spec: Lowering,
    activations: Activations,
    images: Images | None,
) -> _Network:
    parts = _of(precisions, "int8")
    if not parts or images is None:
        return _Network(joined, Calibration({}, {}), activations, False)
    if spec.equalize:
        joined = equalize(joined)
    inside, tensors = (quantized_tensors(joined.graph, parts, kind) for kind in ("int8", activations))
    found = calibrate(joined, tensors, images, spec.calibration, whole=tensors - inside)
    return _Network(joined, found, activations, spec.correct_bias)


def _report(
    spec: Lowering,
    chosen: dict[str, str],
    sensitivity: dict[str, float],
    network: _Network,
    images: Images | None,
) -> Lowered:
    told = Lowered(parts=chosen, budget=tuple(map(str, spec.budget)), sensitivity=sensitivity)
    if images is None or not _of(chosen, "int8"):
        return told
    return msgspec.structs.replace(
        told,
        activations=network.activations,
        calibration=spec.calibration,
        calibration_images=len(images),
        calibration_sha256=digest(images),
        equalized=spec.equalize,
        bias_corrected=spec.correct_bias,
    )


def _of(precisions: Mapping[str, str], precision: str) -> set[str]:
    return {part for part, found in precisions.items() if found == precision}


def _kept(
    parts: Collection[str], tasks: Collection[str], precision: Precision, spec: Lowering
) -> dict[str, str]:
    """The precision of each part as far as it is told: ``keep`` names segments, and tasks for their heads."""
    chosen: dict[str, str] = dict.fromkeys(parts, precision)
    for name, kept in spec.keep.items():
        part = f"head_{name}" if name in tasks else name
        if part not in chosen:
            raise UsageError(
                f"--keep {name}={kept}",
                expected="a task or a segment of this network",
                found=f"`{name}`",
                fix=nearest(name, [*tasks, *(part for part in parts if not part.startswith("head_"))]),
            )
        chosen[part] = kept
    return chosen


def _lacks(where: str, expected: str, fix: str) -> UsageError:
    return UsageError(where, expected=expected, found="none", fix=fix)


def _predictor(model: ModelProto, *, optimize: bool = True) -> Predict:
    evaluate = evaluator(model, optimize=optimize)
    (image,) = (tensor.name for tensor in model.graph.input)
    return lambda images: together(
        in_batches(lambda batch: evaluate({image: batch}), images, batch_of(model))
    )


def _predict_all(model: ModelProto, images: Images) -> Mapping[str, Array]:
    """What the file says by itself: without optimization no kernel adds rounding of its own.

    Raises:
        GateError: not all of it is finite.
    """
    outputs = _predictor(model, optimize=False)(images)
    for task, values in outputs.items():
        _check_finite(f"golden outputs of {task}", values)
    return outputs


def _check_finite(where: str, values: Array) -> None:
    if not np.isfinite(values).all():
        raise GateError(
            where,
            expected="finite values",
            found="others",
            fix="Keep more in fp32, for example with --keep trunk=fp32.",
        )
