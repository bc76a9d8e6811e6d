"""Power while something is measured: by the monitors on the board (INA3221 and others of hwmon) and by NVML.

A rail is what a monitor measures, under the name that the board gives it. Only a rail that is known to feed
the whole board counts as the total; no sum of rails does, because rails feed each other.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from edgemtl.bench import nvml
from edgemtl.bench.sampling import INTERVAL_S, sampling
from edgemtl.bench.sysfs import ROOT, number, numbered, text
from edgemtl.core.device import Power, Rail

# Of Orin Nano, Orin NX and Xavier NX, and of the first Nano. AGX Orin and Thor name no rail of the whole.
TOTALS = ("VDD_IN", "POM_5V_IN")


class Monitor(NamedTuple):
    """A rail and the driver that reads it: ``watts()`` is None while that does not answer."""

    rail: str
    source: str
    watts: Callable[[], float | None]


def monitors(root: Path = ROOT) -> list[Monitor]:
    """Every rail of this machine that answers."""
    found = [monitor for folder in numbered(root / "sys/class/hwmon", "hwmon*") for monitor in _hwmon(folder)]
    found += [Monitor(gpu.label, "nvml", gpu.power_w) for gpu in nvml.gpus(root)]
    return [monitor for monitor in found if monitor.watts() is not None]


class PowerMeter:
    """Samples every rail in a thread of its own while ``running``; without rails there is no thread."""

    def __init__(self, root: Path = ROOT, interval_s: float = INTERVAL_S) -> None:
        self._monitors, self._interval_s = monitors(root), interval_s
        self._samples_w: list[list[float]] = [[] for _ in self._monitors]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Sample until the block ends, once at least."""
        if not self._monitors:
            yield
            return
        with sampling(self._sample, self._interval_s):
            yield

    @property
    def power(self) -> Power | None:
        """What was sampled, by rail; None where nothing measures power."""
        rails: dict[str, Rail] = {}
        for monitor, watts in zip(self._monitors, self._samples_w, strict=True):
            if watts:
                # Two chips of a kind may use one name: no reading may hide another.
                name = monitor.rail if monitor.rail not in rails else f"{monitor.rail} #{len(rails)}"
                rails[name] = Rail(statistics.fmean(watts), max(watts), len(watts), monitor.source)
        total = next((name for name in TOTALS if name in rails), None)
        return Power(rails[total].mean_w if total else None, total, rails) if rails else None

    def _sample(self) -> None:
        for monitor, samples_w in zip(self._monitors, self._samples_w, strict=True):
            watts = monitor.watts()
            if watts is not None:
                samples_w.append(watts)


def _hwmon(folder: Path) -> Iterator[Monitor]:
    """The rails of one chip: volts times amperes of an INA3221, or the power that a driver works out."""
    driver = text(folder / "name") or folder.name
    for file in numbered(folder, "in[123]_label") if driver == "ina3221" else ():
        rail, channel = text(file), file.name[2]
        if rail and rail != "NC":  # not connected
            yield Monitor(rail, driver, partial(_product_w, folder, channel))
    for file in (*numbered(folder, "power*_input"), *numbered(folder, "power*_average")):
        label = text(file.with_name(file.name.partition("_")[0] + "_label"))
        yield Monitor(label or driver, driver, partial(number, file, 1e-6))


def _product_w(folder: Path, channel: str) -> float | None:
    volts = number(folder / f"in{channel}_input", 1e-3)
    amperes = number(folder / f"curr{channel}_input", 1e-3)
    return None if volts is None or amperes is None else volts * amperes
