from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

torch = pytest.importorskip("torch")

from edgemtl.tasks import Depth

meters = st.floats(0.25, 16, width=32)


@given(
    arrays.arrays(np.float32, (2, 1, 3, 4), elements=meters),
    arrays.arrays(np.float32, (2, 1, 3, 4), elements=meters | st.just(0)),
)
def test_metrics_by_their_definition(prediction: np.ndarray, target: np.ndarray) -> None:
    meter = Depth().meter()
    for sample in range(2):  # in two batches
        meter.update(*(torch.from_numpy(values[sample : sample + 1]) for values in (prediction, target)))
    valid = target > 0
    if valid.any():
        truth = target[valid].astype(np.float64)
        error = np.abs(prediction[valid] - truth)
        expected = {"abs": error.mean(), "rel": (error / truth).mean(), "rmse": np.sqrt((error**2).mean())}
        assert meter.compute() == pytest.approx(expected, rel=1e-5)


def test_the_loss_is_the_absolute_error_of_valid_pixels() -> None:
    loss = Depth().loss(torch.tensor([[[[1.0, 9.0, 2.5]]]]), torch.tensor([[[[2.0, 0.0, 2.0]]]]))
    assert (loss.total.item(), loss.count.item()) == (1.5, 2)


def test_half_precision_does_not_overflow() -> None:
    loss = Depth().loss(torch.zeros(1, 1, 200, 200, dtype=torch.float16), torch.full((1, 1, 200, 200), 5.0))
    assert loss.total.item() == 200_000


def test_a_prediction_that_is_not_finite_shows() -> None:
    meter = Depth().meter()
    meter.update(torch.tensor([[[[float("nan"), 1.0]]]]), torch.ones(1, 1, 1, 2))
    assert meter.compute() == dict.fromkeys(("abs", "rel", "rmse"), np.inf)
