"""A device goes through JSON unchanged, whether it was watched or not."""

from __future__ import annotations

import msgspec
import pytest

from edgemtl.core.device import Clock, Conditions, Device, Power, Rail

BARE = Device(
    machine="aarch64",
    cpu=None,
    cores=6,
    memory_mib=7619,
    os=None,
    kernel="Linux 5.15",
    python="3.10.12",
    gpu=None,
    board="NVIDIA Jetson Orin Nano",
    governor=None,
    l4t="36.4.3",
    jetpack=None,
    nvpmodel="15W",
)
NOW = Conditions(
    clocks={"gpu": Clock(612.0, 306.0, None)},
    temperatures_c={"tj-thermal": 52.7},
    throttling=("gpu",),
    throttle_events={"under-voltage": 1},
)
WATCHED = msgspec.structs.replace(
    BARE,
    runtime="onnxruntime 1.31.1",
    before=NOW,
    after=NOW,
    power=Power(7.4, "VDD_IN", {"VDD_IN": Rail(7.4, 9.1, 12, "ina3221")}),
    warnings=("throttling: gpu",),
)


@pytest.mark.parametrize("device", [BARE, WATCHED], ids=["bare", "watched"])
def test_json_keeps_everything(device: Device) -> None:
    assert msgspec.json.decode(msgspec.json.encode(device), type=Device) == device
