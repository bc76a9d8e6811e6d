from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgemtl.bench.conditions import read_conditions, warnings
from edgemtl.core.device import Clock
from tests.bench.boards import BOARDS, NAMES, ORIN_NANO, THROTTLING


@pytest.mark.parametrize("name", NAMES)
def test_every_board_tells_its_clocks_and_temperatures_in_their_units(name: str) -> None:
    found = read_conditions(BOARDS / name)
    for clock in found.clocks.values():
        assert clock.current_mhz is not None
        assert 50 < clock.current_mhz < 6000
    assert all(0 < value < 110 for value in found.temperatures_c.values())
    assert found.clocks
    assert found.temperatures_c or name.startswith("desktop")


def test_orin_nano() -> None:
    found = read_conditions(ORIN_NANO)
    assert found.clocks == {
        "cpu0": Clock(1728.0, pytest.approx(729.6), 1728.0),
        "gpu": Clock(612.0, 306.0, 1020.0),
        "emc": Clock(2133.0, 204.0, 3199.0),
    }
    assert set(found.temperatures_c) == {"cpu-thermal", "gpu-thermal", "tj-thermal"}, "cv0 has no power"
    assert found.throttling == ()
    assert found.throttle_events["instantaneous over-current"] == 3


def test_clusters_of_other_limits_are_clocks_of_their_own() -> None:
    assert set(read_conditions(BOARDS / "agx-orin").clocks) == {"cpu0", "cpu8", "ga10b"}
    assert set(read_conditions(BOARDS / "desktop-intel").clocks) == {"cpu0", "cpu16"}
    assert read_conditions(BOARDS / "desktop-amd").clocks["cpu0"].current_mhz == 5100.0


def test_a_frequency_that_the_power_mode_caps_is_no_throttling() -> None:
    assert read_conditions(BOARDS / "agx-thor").throttling == ()
    assert read_conditions(BOARDS / "desktop-amd").throttling == ()


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    found = read_conditions(tmp_path)
    assert (found.clocks, found.temperatures_c, found.throttling, found.throttle_events) == ({}, {}, (), {})
    assert warnings(found, found) == ()


def test_throttling_before_or_after_is_a_warning_and_so_are_new_events() -> None:
    calm, hot = read_conditions(ORIN_NANO), read_conditions(THROTTLING)
    assert warnings(calm, calm) == ()
    assert warnings(hot, hot) == ("throttling: gpu",), "old events do not count"
    assert warnings(calm, hot) == (
        "throttling: gpu",
        "throttling: under-voltage, events: 1",
        "throttling: instantaneous over-current, events: 2",
    )


def test_an_intel_processor_counts_its_heat(tmp_path: Path) -> None:
    shutil.copytree(BOARDS / "desktop-intel", tmp_path, dirs_exist_ok=True)
    before = read_conditions(tmp_path)
    count = tmp_path / "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count"
    count.write_text("50\n")
    assert warnings(before, read_conditions(tmp_path)) == ("throttling: processor heat, events: 8",)
