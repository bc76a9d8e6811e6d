from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

from edgemtl.core.errors import UsageError
from edgemtl.export.targets import BOARDS, PLATFORMS, TARGETS, devices, newest_opset, version_tuple

ALL = sorted({device for target in TARGETS for device in devices(target)}, key=str)


def test_every_row_of_a_table_is_used_by_another() -> None:
    assert {board for boards in TARGETS.values() for board in boards} == set(BOARDS)
    assert {board for row in PLATFORMS for board in row.boards} == set(BOARDS)
    assert {device.platform for device in ALL} == set(PLATFORMS)
    for row in PLATFORMS:
        assert set(row.dla) <= set(row.boards)
        assert bool(row.jetpack) == bool(row.l4t)


def test_what_the_facts_say_of_the_table() -> None:
    for device in ALL:
        version = version_tuple(device.platform.tensorrt)
        # TensorRT 11 is strongly typed alone and has no calibration; before 9 there was no FP8.
        assert (device.platform.typing == "weak") == (version < (9,))
        assert ("int8-cache" in device.platform.precisions) == (version < (11,))
        assert ("fp8" in device.platform.precisions) == (version >= (9,))
        assert device.board not in device.platform.dla or device.board in {
            "jetson-orin-nx",
            "jetson-agx-orin",
        }


def test_jetson_is_all_jetsons_and_onnx_is_no_board() -> None:
    assert devices("onnx") == ()
    jetsons = [devices(name) for name in TARGETS if name.startswith("jetson-")]
    assert devices("jetson") == sum(jetsons, ())
    assert {device.platform.jetpack for device in devices("desktop")} == {""}


@pytest.mark.parametrize(
    ("target", "asked", "row"),
    [
        ("jetson-orin-nano", "6.2", "6.2"),
        ("jetson-orin-nano", "6.2.1", "6.2"),
        ("jetson-orin-nano", "5.1.3", "5.1"),
        ("jetson-orin-nano", "7.2.2", "7.2"),  # TensorRT 11 did not come to this board
        ("jetson-agx-orin", "7.2.1", "7.2"),
        ("jetson-agx-orin", "7.2.3", "7.2.2"),
        ("jetson-thor", "7.2.2", "7.2.2"),
    ],
)
def test_a_jetpack_is_found_in_its_line(target: str, asked: str, row: str) -> None:
    (device,) = devices(target, asked)
    assert device.platform.jetpack == row


@pytest.mark.parametrize(
    ("target", "jetpack", "says"),
    [
        ("jetsom", "", "Did you mean `jetson`"),
        ("jetson-thor", "6.2", "7.0, 7.1, 7.2"),
        ("jetson-orin-nano", "7.0", "5.1, 6.0, 6.1, 6.2, 7.2"),
        ("jetson", "6", "found `6`"),
        ("jetson", "six", "found `six`"),
        ("desktop", "6.2", "desktop has none"),
        ("onnx", "6.2", "onnx has none"),
    ],
)
def test_an_unknown_target_or_jetpack_is_refused(target: str, jetpack: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        devices(target, jetpack)


@given(st.sampled_from(sorted(TARGETS)), st.integers(17, 23))
def test_the_opset_is_one_that_all_devices_read(target: str, wanted: int) -> None:
    fleet = devices(target)
    found = newest_opset(fleet, wanted)
    assert found == wanted or found in {device.platform.opset for device in fleet}
    assert all(found <= device.platform.opset for device in fleet)
