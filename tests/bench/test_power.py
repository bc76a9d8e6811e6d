from __future__ import annotations

import shutil
import threading
from pathlib import Path
from time import sleep

import pytest

from edgemtl.bench.power import PowerMeter, monitors
from tests.bench.boards import BOARDS, NAMES, ORIN_NANO


def rails(root: Path) -> dict[str, float | None]:
    return {monitor.rail: monitor.watts() for monitor in monitors(root)}


def test_a_rail_is_volts_times_amperes() -> None:
    assert rails(ORIN_NANO) == {
        "VDD_IN": pytest.approx(5.016 * 1.480),
        "VDD_CPU_GPU_CV": pytest.approx(5.016 * 0.616),
        "VDD_SOC": pytest.approx(5.008 * 0.304),
    }


def test_channels_that_are_not_connected_and_sums_over_shunts_are_no_rails() -> None:
    assert set(rails(BOARDS / "agx-orin")) == {"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"}


@pytest.mark.parametrize("name", NAMES)
def test_only_a_rail_of_the_whole_board_is_the_total(name: str) -> None:
    meter = PowerMeter(BOARDS / name)
    with meter.running():
        pass
    power = meter.power
    if name.startswith("orin-nano"):
        assert power is not None
        assert power.total == "VDD_IN"
        assert power.total_w == power.rails["VDD_IN"].mean_w > 5
    elif power is not None:
        assert (power.total, power.total_w) == (None, None)


def test_rails_of_one_name_do_not_hide_each_other() -> None:
    meter = PowerMeter(BOARDS / "desktop-amd")
    with meter.running():
        pass
    assert meter.power is not None
    assert sorted(rail.mean_w for rail in meter.power.rails.values()) == pytest.approx([8.0, 31.0])
    assert {rail.source for rail in meter.power.rails.values()} == {"amdgpu"}


def test_what_does_not_measure_power_gives_none_and_starts_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    meter = PowerMeter(tmp_path)
    with meter.running():
        assert threading.active_count() == before
    assert meter.power is None


def test_power_is_sampled_while_it_changes(tmp_path: Path) -> None:
    shutil.copytree(ORIN_NANO, tmp_path, dirs_exist_ok=True)
    meter = PowerMeter(tmp_path, interval_s=0.005)
    with meter.running():
        sleep(0.05)
        (tmp_path / "sys/class/hwmon/hwmon1/curr1_input").write_text("3000\n")
        (tmp_path / "sys/class/hwmon/hwmon1/curr2_input").unlink()  # a monitor that falls silent
        sleep(0.05)
    assert meter.power is not None
    rail = meter.power.rails["VDD_IN"]
    assert rail.samples > 2
    assert 5.016 * 1.480 < rail.mean_w < rail.max_w == pytest.approx(5.016 * 3.0)
    assert meter.power.rails["VDD_CPU_GPU_CV"].samples < rail.samples


def test_the_thread_ends_when_the_measurement_fails() -> None:
    before = threading.active_count()
    with pytest.raises(ValueError, match="broken"), PowerMeter(ORIN_NANO).running():
        raise ValueError("broken")
    assert threading.active_count() == before
