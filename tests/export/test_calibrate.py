from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import numpy as np
import onnx

from edgemtl.core.errors import GateError
from edgemtl.export.calibrate import (
    BINS,
    Method,
    calibrate,
    digest,
    entropy_bins,
    percentile_bins,
)
from edgemtl.export.graph import constants, copied, set_constants
from edgemtl.export.int8 import quantized_tensors
from tests.export.networks import TASKS, images, joined, parts, run


@pytest.fixture(scope="module")
def tensors() -> set[str]:
    return quantized_tensors(joined().graph, set(parts()), "uint8")


def test_minmax_is_the_smallest_and_largest_value_over_all_images(tensors: set[str]) -> None:
    calibration = calibrate(joined(), tensors, images(3), "minmax")
    watched = copied(joined())
    watched.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in tensors
        if name != "image"
    )
    seen = [run(watched, {"image": image[None]}) | {"image": image[None]} for image in images(3)]
    for name in tensors:
        lowest, highest = calibration.ranges[name]
        values = np.stack([found[name] for found in seen])
        # A pooled or resized tensor has the range of what it was made of.
        assert lowest <= values.min() and values.max() <= highest
        np.testing.assert_allclose(
            calibration.means[name], values.mean(axis=(0, 1, 3, 4)), rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_every_method_covers_no_more_than_all_values_and_has_a_range_for_every_tensor(
    method: Method, tensors: set[str]
) -> None:
    ranges = calibrate(joined(), tensors, images(2), method).ranges
    widest = calibrate(joined(), tensors, images(2), "minmax").ranges
    assert set(ranges) == tensors
    for name, (lowest, highest) in ranges.items():
        assert widest[name][0] <= lowest <= highest <= widest[name][1]


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_an_output_keeps_every_value_and_some_room(method: Method, tensors: set[str]) -> None:
    ranges = calibrate(joined(), tensors, images(2), method, whole=TASKS.keys() & tensors).ranges
    widest = calibrate(joined(), tensors, images(2), "minmax").ranges
    for task in TASKS.keys() & tensors:
        lowest, highest = widest[task]
        assert ranges[task] == pytest.approx((lowest * 1.1 - highest * 0.1, highest * 1.1 - lowest * 0.1))


@pytest.mark.parametrize("first", [0, 130, 600, 1500])
def test_entropy_is_not_misled_by_values_that_are_never_near_zero(first: int) -> None:
    """As depths are: a cut right above the first of them would leave one value, and no divergence."""
    histogram = np.zeros(BINS, np.int64)
    values = np.random.default_rng(0).integers(first, BINS, 50_000)
    np.add.at(histogram, values, 1)
    kept = histogram[: entropy_bins(histogram)].sum() / histogram.sum()
    assert kept >= 0.98


def test_percentile_cuts_what_few_values_reach() -> None:
    histogram = np.zeros(BINS, np.int64)
    histogram[:100], histogram[-1] = 1000, 5
    assert percentile_bins(histogram) == 100
    histogram[-1] = 5000
    assert percentile_bins(histogram) == BINS


def test_entropy_cuts_a_far_outlier_and_keeps_a_full_range() -> None:
    bell = np.exp(-((np.arange(BINS) / 150) ** 2))
    histogram = (1e6 * bell).astype(np.int64)
    histogram[-1] = 3
    assert entropy_bins(histogram) < BINS / 2
    assert entropy_bins(np.full(BINS, 1000)) == BINS


def test_the_digest_depends_on_every_pixel_and_on_the_order() -> None:
    other = images(3)
    other[2, 0, 0, 0] += 0.5
    assert len({digest(images(3)), digest(other), digest(images(3)[::-1]), digest(images(2))}) == 4


def test_a_static_batch_that_does_not_divide_the_images_changes_nothing(tensors: set[str]) -> None:
    expected = calibrate(joined(), tensors, images(6), "percentile")
    found = calibrate(joined(4), tensors, images(6), "percentile")
    for name, pair in expected.ranges.items():
        np.testing.assert_allclose(found.ranges[name], pair, rtol=1e-5)
    for name, mean in expected.means.items():
        np.testing.assert_allclose(found.means[name], mean, rtol=1e-5, atol=1e-7)


def test_a_network_that_overflows_is_refused(tensors: set[str]) -> None:
    broken = copied(joined())
    weights = {name: value for name, value in constants(broken.graph).items() if value.ndim == 4}
    set_constants(broken.graph, {name: value * 1e30 for name, value in weights.items()})
    with pytest.raises(GateError, match="overflows on real images"):
        calibrate(broken, tensors, images(1), "minmax")


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_an_image_that_is_not_finite_is_refused(method: Method, tensors: set[str]) -> None:
    some = images(4)
    some[2, 1, 3, 5] = np.nan
    with pytest.raises(GateError, match="If the images are sound"):
        calibrate(joined(), tensors, some, method)
