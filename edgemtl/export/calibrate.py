"""Calibration: which values the tensors of a network take on real images, and from that their ranges.

The fp32 network runs twice over the images: once for the ends and the means, once for histograms where the
method wants them. So memory does not grow with the number of images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Literal, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, helper

from edgemtl.core.errors import GateError
from edgemtl.export.evaluate import evaluator
from edgemtl.export.graph import Array, copied, writers
from edgemtl.export.int8 import Range, origin
from edgemtl.runtime.batches import in_batches

Method = Literal["minmax", "entropy", "percentile"]
Images = NDArray[np.float32]

BINS = 2048
LEVELS = 128  # of the positive half of int8
_STEP = 16  # a finer search moves a threshold by less than a percent
PERCENTILE = 99.99  # of the absolute values that a range covers
_KEPT = 0.99  # of the values, at least, whatever entropy says: values that are never near 0 would mislead it
_MARGIN = 0.1  # of the range, at each end of an output: calibration images do not hold the farthest wall


class Calibration(NamedTuple):
    """What was found: the range of each tensor, and the mean of each of its channels."""

    ranges: dict[str, Range]
    means: dict[str, Array]


def calibrate(
    joined: ModelProto,
    tensors: Collection[str],
    images: Images,
    method: Method,
    *,
    whole: Collection[str] = (),
) -> Calibration:
    """Run a network over images [N, 3, H, W] and choose the ranges of ``tensors``.

    ``minmax`` covers every value; ``percentile`` all but the 0.01 % that are largest in magnitude;
    ``entropy`` cuts where the histogram of the magnitudes loses least by rounding to 128 levels (Migacz,
    "8-bit Inference with TensorRT", 2017, the algorithm on its slides 38 and 39). What is in ``whole``, the
    outputs of a network, is never cut: it keeps every value and some room at both ends.

    Raises:
        GateError: the network writes values that are not finite.
    """
    source = writers(joined.graph)
    origins = {name: origin(name, source) for name in tensors}
    observe = _observed(joined, sorted({*tensors, *origins.values()}), images)
    ends, means = _ends_and_means(observe)
    whole_ends = {name: ends[name] for name in whole}
    if method != "minmax":
        threshold = entropy_bins if method == "entropy" else percentile_bins
        for name, histogram in _histograms(
            observe, {origin: ends[origin] for origin in origins.values()}
        ).items():
            low, high = ends[name]
            limit = max(-low, high) * threshold(histogram) / BINS
            ends[name] = max(low, -limit), min(high, limit)
    ranges = {name: ends[first] for name, first in origins.items()}
    return Calibration({**ranges, **{name: _wider(whole_ends[name]) for name in whole}}, means)


def digest(images: Images) -> str:
    """The SHA-256 of a calibration set: of its pixels in order, float32, little-endian."""
    return hashlib.sha256(np.ascontiguousarray(images, "<f4").tobytes()).hexdigest()


Observe = Callable[[], Iterator[dict[str, Array]]]


def batch_of(model: ModelProto) -> int:
    """The smallest batch that a model takes."""
    return model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1


def percentile_bins(histogram: Array) -> int:
    """The number of bins from 0 up that hold PERCENTILE percent of the values."""
    covered = histogram.cumsum() / histogram.sum()
    return int(np.searchsorted(covered, PERCENTILE / 100)) + 1


def entropy_bins(histogram: Array) -> int:
    """The number of bins from 0 up that loses least when the values in them are rounded to 128 levels."""
    # What ReLU has cut is exact at any scale, and would drown all the rest.
    counts = histogram.astype(np.float64)
    counts[0] = counts[1]
    fewest = int(np.searchsorted(counts.cumsum(), _KEPT * counts.sum())) + 1
    candidates = [kept for kept in range(LEVELS, BINS + 1, _STEP) if kept >= fewest]
    return min(candidates, key=lambda kept: _divergence(counts, kept))


def _wider(ends: Range) -> Range:
    low, high = ends
    return low - _MARGIN * (high - low), high + _MARGIN * (high - low)


def _divergence(counts: Array, kept: int) -> float:
    """KL(p | q): p is the histogram with the outliers in its last bin, q the same rounded to levels."""
    p = counts[:kept].copy()
    q_mass, there = counts[:kept], counts[:kept] > 0
    p[-1] += counts[kept:].sum()
    level = np.arange(kept) * LEVELS // kept
    mass, members = np.bincount(level, q_mass), np.bincount(level, there)
    q = np.where(there, (mass / np.maximum(members, 1))[level], 0)
    if q.sum() == 0 or p.sum() == 0:
        return np.inf
    p, q = p / p.sum(), q / q.sum()
    floor = 1e-9  # where q has nothing the divergence is infinite: only nearly so, to rank the candidates
    return float(np.sum(np.where(p > 0, p * np.log(np.maximum(p, floor) / np.maximum(q, floor)), 0)))


def _observed(joined: ModelProto, names: list[str], images: Images) -> Observe:
    """What runs the network over the images and gives the named tensors, a batch at a time."""
    model = copied(joined)
    (image,) = (info.name for info in model.graph.input)
    del model.graph.output[:]
    for name in sorted(set(names) - {image}):
        model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    evaluate = evaluator(model)

    def run(batch: Array) -> dict[str, Array]:
        return {image: batch, **evaluate({image: batch})}

    return lambda: in_batches(run, images, batch_of(model))


def _ends_and_means(observe: Observe) -> tuple[dict[str, Range], dict[str, Array]]:
    ends: dict[str, Range] = {}
    sums: dict[str, Array] = {}
    images = 0
    for tensors in observe():
        images += len(next(iter(tensors.values())))
        for name, value in tensors.items():
            lowest, highest = float(value.min()), float(value.max())  # NaN, if one value is
            if not np.isfinite((lowest, highest)).all():
                raise GateError(
                    f"calibration of {name}",
                    expected="finite values",
                    found="others",
                    fix="If the images are sound, the trained network overflows on real images: train again.",
                )
            low, high = ends.get(name, (np.inf, -np.inf))
            ends[name] = min(low, lowest), max(high, highest)
            means = value.mean(axis=tuple(range(2, value.ndim)), dtype=np.float64)
            sums[name] = sums.get(name, np.float64(0)) + means.sum(axis=0)
    return ends, {name: total / images for name, total in sums.items()}


def _histograms(observe: Observe, ends: Mapping[str, Range]) -> dict[str, Array]:
    """The histogram of the magnitudes of each tensor, from 0 to its largest."""
    found = {name: np.zeros(BINS, np.int64) for name in ends}
    for tensors in observe():
        for name, histogram in found.items():
            largest = max(-ends[name][0], ends[name][1]) or 1.0
            histogram += np.histogram(np.abs(tensors[name]), BINS, (0.0, largest))[0]
    return found
