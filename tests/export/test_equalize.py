from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import numpy as np

from edgemtl.export.calibrate import calibrate
from edgemtl.export.equalize import correct_bias, equalize, spaces
from edgemtl.export.graph import constants, copied, set_constants
from edgemtl.export.int8 import quantize, quantized_tensors, round_weight
from tests.export.networks import TASKS, images, joined, parts, run


def test_an_equalized_network_computes_the_same() -> None:
    exact, found = (run(model, {"image": images(2)[:1]}) for model in (joined(), equalize(joined())))
    for task, value in exact.items():
        np.testing.assert_allclose(found[task], value, atol=1e-5 * np.abs(value).max())


def test_every_channel_is_as_large_where_it_is_written_as_where_it_is_read() -> None:
    values = constants(equalize(joined()).graph)
    found = spaces(joined().graph)
    assert found
    for space in found:
        r1 = np.max([np.abs(values[w]).max(axis=(1, 2, 3)) for w, _ in space.written], axis=0)
        r2 = np.max([np.abs(values[w]).max(axis=(0, 2, 3)) for w in space.read], axis=0)
        np.testing.assert_allclose(r1, r2, rtol=0.01)


def test_a_skip_connection_ties_its_writers_together() -> None:
    assert max(len(space.written) for space in spaces(joined().graph)) > 1


def test_what_the_user_sees_is_never_scaled() -> None:
    written = {bias for space in spaces(joined().graph) for _, bias in space.written}
    assert not any(name.startswith("head_") for name in written)


def test_corrected_biases_undo_what_rounding_weights_shifts_on_average() -> None:
    """Of one convolution without borders: with all weights rounded its mean output is that of fp32."""
    calibration = calibrate(
        joined(), quantized_tensors(joined().graph, {"trunk"}, "uint8"), images(4), "minmax"
    )
    node = next(node for node in joined().graph.node if node.input[0] == "image")
    corrected = correct_bias(joined(), {"trunk"}, calibration.means)
    before, after = constants(joined().graph), constants(corrected.graph)
    weight, bias = node.input[1], node.input[2]
    rounded, scale = round_weight(before[weight])
    error = rounded * scale[:, None, None, None] - before[weight]
    shift = (error.sum(axis=(2, 3)) * calibration.means["image"]).sum(axis=1)
    np.testing.assert_allclose(after[bias] + shift, before[bias], atol=1e-6)
    assert np.abs(after[bias] - before[bias]).max() > 0


def test_both_bring_int8_nearer_to_fp32_where_channels_are_far_apart() -> None:
    """Channels scaled up in one convolution and down in the next, as folding a normalization leaves them."""
    rng = np.random.default_rng(0)
    uneven = copied(joined())
    values = {n: v.astype(np.float64) for n, v in constants(uneven.graph).items() if v.dtype == np.float32}
    for space in spaces(uneven.graph):
        channels = len(values[space.written[0][1]])
        factor = 10 ** rng.uniform(-1, 1, channels)
        for weight, bias in space.written:
            values[weight] *= factor[:, None, None, None]
            values[bias] *= factor
        for weight in space.read:
            values[weight] /= factor[None, :, None, None]
    set_constants(uneven.graph, values)
    exact = run(joined(), {"image": images(1)})
    errors = []
    for model in (uneven, equalize(uneven)):
        ranges = calibrate(
            model, quantized_tensors(model.graph, set(parts()), "uint8"), images(4), "minmax"
        ).ranges
        found = run(quantize(model, set(parts()), ranges, "int8"), {"image": images(1)}, optimize=False)
        errors.append(sum(np.square(found[t] - exact[t]).mean() / np.square(exact[t]).mean() for t in TASKS))
    assert errors[1] < errors[0] / 4
