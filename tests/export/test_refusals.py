from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest

pytest.importorskip("torch")

from edgemtl.core.errors import UsageError
from edgemtl.export import Export
from edgemtl.export.precision import WRITTEN
from edgemtl.export.refusals import check_dla, check_opset, check_precision
from edgemtl.export.targets import BOARDS, TARGETS, Device, Precision, devices

ALL = sorted({device for target in TARGETS for device in devices(target)}, key=str)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"target": "jetson-orin-nano", "precision": "fp8"}, "GPU of jetson-orin-nano .* Use fp16 or int8"),
        ({"target": "jetson-thor", "jetpack": "7.2.2", "precision": "int8-cache"}, "Use int8, which is Q/DQ"),
        ({"target": "desktop", "precision": "int8-cache"}, "TensorRT 11 runs"),
        ({"target": "jetson-thor", "dla": True, "precision": "fp16"}, "jetson-thor with JetPack 7.0"),
        (
            {"target": "jetson-orin-nano", "dla": True, "precision": "fp16"},
            "name jetson-orin-nx with JetPack 5.1",
        ),
        ({"target": "jetson-orin-nx", "jetpack": "7.2", "dla": True}, "jetson-agx-orin with JetPack .*7.2.2"),
        ({"target": "onnx", "dla": True}, "no board"),
        ({"target": "desktop", "dla": True}, "desktop with TensorRT 10"),
        (
            {"target": "jetson-agx-orin", "jetpack": "6.2", "dla": True},
            "fp16, all that the DLA of .* computes, found `fp32`",
        ),
        (
            {"target": "jetson-agx-orin", "jetpack": "7.2.2", "dla": True},
            "fp16 or int8, all that the DLA of .* computes",
        ),
        (
            {
                "target": "jetson-agx-orin",
                "jetpack": "6.2",
                "dla": True,
                "precision": "fp16",
                "batch": (1, 8),
            },
            "a static batch",
        ),
        ({"target": "jetson-orin-nano", "opset": 18}, "17 or older .* name --jetpack 6.1 or newer"),
        ({"target": "jetson-thor", "opset": 23}, "22 or older .* name --jetpack 7.2.2 or newer"),
    ],
    ids=str,
)
def test_the_impossible_is_refused_with_what_would_work(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Export(**wrong)


@pytest.mark.parametrize("target", TARGETS)
def test_what_edgemtl_writes_fits_every_target(target: str) -> None:
    for precision in WRITTEN:
        spec = Export(target=target, precision=precision)
        assert spec.label == f"{target}-{precision}"
        check_opset(spec.devices, spec.written_opset)


def test_the_newest_opset_is_taken_that_a_target_reads() -> None:
    assert Export().written_opset == 18
    assert Export(target="jetson").written_opset == 17
    assert Export(target="jetson-orin-nano", jetpack="6.2").written_opset == 18
    assert Export(target="jetson-orin-nano", jetpack="6.2", opset=20).written_opset == 20


@pytest.mark.parametrize("device", ALL, ids=str)
@pytest.mark.parametrize("precision", get_args(Precision))
def test_a_precision_that_is_offered_passes(device: Device, precision: Precision) -> None:
    if precision in {*BOARDS[device.board].precisions} & {*device.platform.precisions}:
        check_precision([device], precision)
        return
    with pytest.raises(UsageError) as refused:
        check_precision([device], precision)
    for offered in refused.value.expected.partition(": ")[2].split(", "):
        check_precision([device], msgspec.convert(offered, Precision))


def test_a_dla_that_is_offered_is_there() -> None:
    for device in ALL:
        if device.board in device.platform.dla:
            check_dla((device,), "fp16", (2, 2))
        else:
            with pytest.raises(UsageError, match="a target that has one"):
                check_dla((device,), "fp16", (2, 2))


def test_a_dla_takes_int8_as_nodes_only_where_tensorrt_knows_no_calibration_cache() -> None:
    for device in (device for device in ALL if device.board in device.platform.dla):
        if "int8-cache" in device.platform.precisions:
            with pytest.raises(UsageError, match=r"found `int8`\. Add --precision fp16"):
                check_dla((device,), "int8", (2, 2))
        else:
            check_dla((device,), "int8", (2, 2))
