"""NVIDIA GPUs through NVML, where the package nvidia-ml-py and a driver are installed; else there are none.

A Jetson answers to a part of NVML only, so that every figure may be missing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from edgemtl.bench.sysfs import ROOT
from edgemtl.core.device import Clock

T = TypeVar("T")

# Of nvml.h, nvmlClocksThrottleReasons: those that mean that the GPU is slower than it was told to be.
REASONS = {0x08: "hw-slowdown", 0x20: "sw-thermal", 0x40: "hw-thermal", 0x80: "power-brake"}


class Gpu:
    """One GPU. ``label`` is its name in a report: ``gpu0``."""

    def __init__(self, api: ModuleType, index: int) -> None:
        self._api, self._handle = api, api.nvmlDeviceGetHandleByIndex(index)
        self.label = f"gpu{index}"
        name = api.nvmlDeviceGetName(self._handle)
        self.name: str = name.decode() if isinstance(name, bytes) else name

    def clocks(self) -> dict[str, Clock]:
        """The clocks of its processors and of its memory."""
        kinds = {self.label: self._api.NVML_CLOCK_SM, f"{self.label} memory": self._api.NVML_CLOCK_MEM}
        found = {
            name: Clock(
                current_mhz=self._ask(self._api.nvmlDeviceGetClockInfo, kind),
                min_mhz=None,
                max_mhz=self._ask(self._api.nvmlDeviceGetMaxClockInfo, kind),
            )
            for name, kind in kinds.items()
        }
        return {name: clock for name, clock in found.items() if clock.current_mhz is not None}

    def temperature_c(self) -> float | None:
        """In degrees Celsius."""
        return self._ask(self._api.nvmlDeviceGetTemperature, self._api.NVML_TEMPERATURE_GPU)

    def power_w(self) -> float | None:
        """What the GPU's board draws, in watts."""
        power_mw: int | None = self._ask(self._api.nvmlDeviceGetPowerUsage)
        return None if power_mw is None else power_mw / 1000

    def throttling(self) -> tuple[str, ...]:
        """Why its clocks are held down, if they are."""
        mask = self._ask(self._api.nvmlDeviceGetCurrentClocksThrottleReasons) or 0
        return tuple(name for bit, name in REASONS.items() if mask & bit)

    def _ask(self, question: Callable[..., T], *arguments: Any) -> T | None:
        try:
            return question(self._handle, *arguments)
        except self._api.NVMLError:
            return None


@cache
def gpus(root: Path) -> tuple[Gpu, ...]:
    """The GPUs that NVML knows; a recorded tree has none."""
    if root != ROOT:
        return ()
    with suppress(ImportError):
        api = import_module("pynvml")
        with suppress(api.NVMLError):  # no driver, or one that is not loaded
            api.nvmlInit()
            return tuple(Gpu(api, index) for index in range(api.nvmlDeviceGetCount()))
    return ()
