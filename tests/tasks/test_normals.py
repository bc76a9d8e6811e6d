from __future__ import annotations

import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch import Tensor

from edgemtl.tasks import Normals


def tilted(degrees: list[float]) -> Tensor:
    """Unit vectors [1, 3, 1, n] at these angles from (0, 0, -1), each in another direction."""
    angle, turn = torch.tensor(degrees, dtype=torch.float64).deg2rad(), torch.arange(len(degrees))
    x, y, z = angle.sin() * turn.cos(), angle.sin() * turn.sin(), -angle.cos()
    return torch.stack([x, y, z])[None, :, None].float()


def scores(degrees: list[float], length: float = 1.0) -> dict[str, float]:
    meter = Normals().meter()
    meter.update(length * tilted(degrees), tilted([0.0] * len(degrees)))
    return meter.compute()


# Away from the edges of the shares, which rounding may cross.
angles = st.floats(0, 180).filter(lambda a: min(abs(a - edge) for edge in (11.25, 22.5, 30)) > 1e-3)


@given(st.lists(angles, min_size=1, max_size=50), st.sampled_from([0.01, 1.0, 30.0]))
def test_metrics_by_their_definition(degrees: list[float], length: float) -> None:
    found, true = scores(degrees, length), np.array(degrees)
    assert found["mean"] == pytest.approx(true.mean(), abs=1e-3)
    low, high = (np.quantile(true, 0.5, method=side) for side in ("lower", "higher"))
    assert low - 0.01 <= found["median"] <= high + 0.01
    for name, edge in (("within_11", 11.25), ("within_22", 22.5), ("within_30", 30.0)):
        assert found[name] == pytest.approx((true < edge).mean())


def test_the_median_of_many_is_exact_to_the_histogram() -> None:
    degrees = np.random.default_rng(0).gamma(2, 12, 20_001).clip(0, 180)
    assert scores(degrees.tolist())["median"] == pytest.approx(np.median(degrees), abs=0.01)


def test_small_angles_are_not_lost_to_rounding() -> None:
    assert scores([0.004])["mean"] == pytest.approx(0.004, rel=0.01)


@pytest.mark.parametrize(("value", "angle"), [(0.0, 90.0), (math.nan, 180.0), (math.inf, 180.0)])
def test_a_prediction_without_direction_earns_nothing(value: float, angle: float) -> None:
    meter = Normals().meter()
    meter.update(torch.full((1, 3, 1, 1), value), tilted([0.0]))
    assert meter.compute()["mean"] == pytest.approx(angle)
    assert meter.compute()["within_30"] == 0.0


@settings(max_examples=30)
@given(st.floats(1e-2, 1e4), st.integers(0, 99))
def test_the_head_writes_unit_vectors(scale: float, seed: int) -> None:
    torch.manual_seed(seed)
    raw = scale * torch.nn.functional.normalize(torch.randn(1, 3, 4, 5), dim=1)
    length = Normals().head(4).finish(raw).norm(dim=1)
    assert torch.allclose(length, torch.ones_like(length), atol=1e-5)


def test_the_head_survives_a_zero_vector_in_every_precision() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        zero = torch.zeros(1, 3, 2, 2, dtype=dtype, requires_grad=True)
        unit = Normals().head(4).finish(zero)
        unit.sum().backward()
        assert (unit == 0).all()
        assert zero.grad.isfinite().all()


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # torch 2.13 in its own exporter
def test_the_head_exports_with_its_normalization_inside() -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    head, feature = Normals().head(4), torch.randn(1, 4, 5, 7)

    class AtSize(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = head

        def forward(self, feature: Tensor) -> Tensor:
            return self.head(feature, (10, 14))

    file = io.BytesIO()
    torch.onnx.export(AtSize().eval(), (feature,), dynamo=True, external_data=False).save(file)
    (found,) = runtime.InferenceSession(file.getvalue()).run(None, {"feature": feature.numpy()})
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)
    assert found == pytest.approx(head(feature, (10, 14)).detach().numpy(), abs=1e-5)
