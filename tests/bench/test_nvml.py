"""NVML through a module of the names that nvidia-ml-py has. Its second GPU answers to nothing but its name,
as that of a Jetson does."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgemtl.bench import nvml
from edgemtl.bench.conditions import read_conditions
from edgemtl.bench.device import device_facts
from edgemtl.bench.power import monitors
from edgemtl.bench.sysfs import ROOT
from edgemtl.core.device import Clock

API = """
class NVMLError(Exception): pass

NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

def nvmlInit():
    {init}

def nvmlDeviceGetCount(): return 2

def nvmlDeviceGetHandleByIndex(index): return index

def nvmlDeviceGetName(gpu): return [b"NVIDIA RTX 4090", "Orin (nvgpu)"][gpu]

def told(gpu, value):
    if gpu: raise NVMLError("not supported")
    return value

def nvmlDeviceGetClockInfo(gpu, kind): return told(gpu, {{1: 2520, 2: 10501}}[kind])

def nvmlDeviceGetMaxClockInfo(gpu, kind): return told(gpu, {{1: 3120, 2: 10501}}[kind])

def nvmlDeviceGetTemperature(gpu, sensor): return told(gpu, 64)

def nvmlDeviceGetPowerUsage(gpu): return told(gpu, 312500)

def nvmlDeviceGetCurrentClocksThrottleReasons(gpu): return told(gpu, 0x4 | 0x20)
"""


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    nvml.gpus.cache_clear()
    yield
    sys.modules.pop("pynvml", None)
    nvml.gpus.cache_clear()


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, init: str = "pass") -> None:
    (folder / "pynvml.py").write_text(API.format(init=init))
    monkeypatch.syspath_prepend(folder)


def test_the_real_package_has_these_names() -> None:
    real = pytest.importorskip("pynvml", reason="needs edgemtl[trt]: no nvidia-ml-py")
    names = set(re.findall(r"NVML_\w+|nvml[A-Z]\w+|NVMLError", API))
    assert len(names) == 13
    assert not [name for name in names if not hasattr(real, name)]


def test_a_desktop_gpu_tells_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)
    assert device_facts().gpu == "NVIDIA RTX 4090"
    found = read_conditions()
    assert found.clocks["gpu0"] == Clock(2520, None, 3120)
    assert found.clocks["gpu0 memory"] == Clock(10501, None, 10501)
    assert found.temperatures_c["gpu0"] == 64
    assert found.throttling == ("gpu0 sw-thermal",), "a power cap that was set is none"
    (rail,) = [monitor for monitor in monitors() if monitor.source == "nvml"]
    assert (rail.rail, rail.watts()) == ("gpu0", 312.5)


def test_what_a_gpu_does_not_tell_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)
    _, orin = nvml.gpus(ROOT)
    assert orin.name == "Orin (nvgpu)"
    assert (orin.clocks(), orin.temperature_c(), orin.power_w(), orin.throttling()) == ({}, None, None, ())


def test_without_the_package_or_the_driver_there_are_no_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, init="raise NVMLError('driver not loaded')")
    assert nvml.gpus(ROOT) == ()
    nvml.gpus.cache_clear()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml.gpus(ROOT) == ()


def test_a_recorded_tree_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)
    assert nvml.gpus(tmp_path) == ()
