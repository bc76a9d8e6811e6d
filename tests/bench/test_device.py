from __future__ import annotations

import shutil
from pathlib import Path
from time import sleep

import msgspec
import pytest

from edgemtl.bench.device import Watch, device_facts
from edgemtl.bench.sampling import INTERVAL_S
from edgemtl.core.device import Device
from tests.bench.boards import BOARDS, NAMES, ORIN_NANO


def test_facts_of_this_machine_are_never_made_up() -> None:
    facts = msgspec.to_builtins(device_facts())
    assert all(value not in ("", "unknown", 0) for value in facts.values())
    assert facts["cores"] >= 1


def test_orin_nano() -> None:
    facts = device_facts(ORIN_NANO)
    assert facts.board == "NVIDIA Jetson Orin Nano Developer Kit"
    assert (facts.l4t, facts.jetpack, facts.nvpmodel) == ("36.4.3", "6.2", "MAXN_SUPER")
    assert (facts.governor, facts.memory_mib) == ("schedutil", 7619)
    assert facts.os == "Ubuntu 22.04.5 LTS"


def test_a_mode_without_a_name_is_its_number_and_a_jetpack_that_is_not_installed_none() -> None:
    facts = device_facts(BOARDS / "agx-orin")
    assert (facts.l4t, facts.jetpack, facts.nvpmodel) == ("35.4.1", None, "mode 3")


def test_what_cannot_be_read_is_none(tmp_path: Path) -> None:
    facts = device_facts(tmp_path)
    for name in "cpu", "memory_mib", "os", "gpu", "board", "governor", "l4t", "jetpack", "nvpmodel":
        assert getattr(facts, name) is None


@pytest.mark.parametrize("content", ["", "# R", "R36", "# R36 (release)", "\xff"])
def test_a_release_that_cannot_be_read_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text(content, encoding="latin1")
    assert device_facts(tmp_path).l4t is None


@pytest.mark.parametrize("name", NAMES)
def test_a_watched_board_has_the_whole_story(name: str) -> None:
    watch = Watch(BOARDS / name)
    assert watch.device.before is watch.device.after is watch.device.power is None
    with watch.watching():
        pass
    device = watch.device
    assert device.before == device.after
    assert bool(device.warnings) == (name == "orin-nano-throttling")
    assert msgspec.json.decode(msgspec.json.encode(device), type=Device) == device


def test_throttling_that_is_over_at_the_end_is_a_warning(tmp_path: Path) -> None:
    shutil.copytree(ORIN_NANO, tmp_path, dirs_exist_ok=True)
    alert = next(
        path.with_name("cur_state")
        for path in tmp_path.glob("sys/class/thermal/cooling_device*/type")
        if path.read_text().strip().endswith("-throttle-alert")
    )
    watch = Watch(tmp_path)
    with watch.watching():
        alert.write_text("1")
        sleep(3 * INTERVAL_S)
        alert.write_text("0")
    assert watch.device.before == watch.device.after
    assert [warning.partition(":")[0] for warning in watch.device.warnings] == ["throttling"]
