from __future__ import annotations

import msgspec
import pytest

from edgemtl.core.errors import GateError
from edgemtl.core.inspection import FP32_LIMIT, FP64_LIMIT, Agreement, Certificate


def certificate(*, fp64: float = 1e-14, fp32: float = 1e-7) -> Certificate:
    """Of two tasks; the second agrees exactly."""
    return Certificate(
        fp64={"depth": Agreement(0.1, fp64), "normals": Agreement(0.0, 0.0)},
        fp32={"depth": Agreement(0.1, fp32), "normals": Agreement(0.0, 0.0)},
        size=(96, 128),
        parameters=(200, 100),
        macs=(3000, 2000),
    )


def test_an_exact_collapse_passes() -> None:
    certificate().check()


@pytest.mark.parametrize("limit", [{"fp64": FP64_LIMIT}, {"fp32": FP32_LIMIT}], ids=["fp64", "fp32"])
@pytest.mark.parametrize("factor", [1.0, 1e6, float("inf"), float("nan")])
def test_an_error_that_is_not_under_the_limit_is_refused(limit: dict[str, float], factor: float) -> None:
    ((precision, value),) = limit.items()
    with pytest.raises(GateError, match=rf"certificate {precision} depth: expected a relative error under"):
        certificate(**{precision: factor * value}).check()


def test_a_task_that_is_noisy_in_fp32_by_itself_may_differ_by_as_much() -> None:
    noisy = msgspec.structs.replace(certificate(fp32=3e-5), noise={"depth": 1e-5})
    noisy.check()
    with pytest.raises(GateError, match=r"expected a relative error under 4e-05, found 5e-05"):
        msgspec.structs.replace(noisy, fp32={"depth": Agreement(0.1, 5e-5)}).check()
    with pytest.raises(GateError, match="certificate fp64"):
        msgspec.structs.replace(noisy, fp64={"depth": Agreement(0.1, 3e-5)}).check()


def test_worst_is_the_largest_over_the_tasks() -> None:
    assert certificate(fp64=1e-12, fp32=1e-6).worst == {"fp64": 1e-12, "fp32": 1e-6}


def test_a_certificate_survives_json() -> None:
    whole = msgspec.structs.replace(certificate(), split="val", scores={"depth": {"abs": (0.5, 0.5)}})
    assert msgspec.json.decode(msgspec.json.encode(whole), type=Certificate) == whole
