"""The conditions of a measurement that change by the second: clocks, temperatures, throttling."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from edgemtl.bench import nvml
from edgemtl.bench.sysfs import ROOT, number, numbered, text
from edgemtl.core.device import Clock, Conditions

# The integrated GPU of a Jetson among the devices that scale their frequency: 17000000.gpu, gpu-gpc-0.
GPU = re.compile(r"(?:[0-9a-f]+\.)?(gpu.*|g[abpmv]\d+b)")
# What soctherm counts on Orin and Thor, in the words of NVIDIA's Jetson Linux guide.
EVENTS = {
    "oc1_event_cnt": "under-voltage",
    "oc2_event_cnt": "average over-current",
    "oc3_event_cnt": "instantaneous over-current",
}


def read_conditions(root: Path = ROOT) -> Conditions:
    """How the machine is right now."""
    clocks = {**_cpu_clocks(root), **_gpu_clocks(root), **_memory_clock(root)}
    temperatures_c = dict(_temperatures_c(root))
    for gpu in nvml.gpus(root):
        clocks |= gpu.clocks()
        temperature_c = gpu.temperature_c()
        if temperature_c is not None:
            temperatures_c[gpu.label] = temperature_c
    return Conditions(
        clocks=clocks,
        temperatures_c=temperatures_c,
        throttling=tuple(name for tell in alerts(root) for name in tell()),
        throttle_events=dict(_events(root)),
    )


def alerts(root: Path = ROOT) -> list[Callable[[], Iterable[str]]]:
    """All that tells of this machine what throttles it right now: the throttle alerts of a Jetson, and NVML.

    Other cooling devices tell no throttling: a fan, or a frequency that the power mode caps.
    """
    found: list[Callable[[], Iterable[str]]] = []
    for device in numbered(root / "sys/class/thermal", "cooling_device*"):
        name = text(device / "type") or ""
        if name.endswith("-throttle-alert"):
            found.append(partial(_alert, name.removesuffix("-throttle-alert"), device / "cur_state"))
    return found + [partial(_reasons, gpu) for gpu in nvml.gpus(root)]


def warnings(before: Conditions, after: Conditions, meanwhile: Iterable[str] = ()) -> tuple[str, ...]:
    """What speaks against figures that were measured in between: that the machine was throttling."""
    active = dict.fromkeys((*before.throttling, *meanwhile, *after.throttling))  # an ordered set
    known = before.throttle_events
    counted = {name: count - known.get(name, 0) for name, count in after.throttle_events.items()}
    return (
        *(f"throttling: {name}" for name in active),
        *(f"throttling: {name}, events: {count}" for name, count in counted.items() if count > 0),
    )


def _cpu_clocks(root: Path) -> dict[str, Clock]:
    """One clock for all clusters of the same limits, that of the fastest: a desktop has one for each core."""
    found: dict[tuple[float | None, float | None], tuple[str, Clock]] = {}
    for policy in numbered(root / "sys/devices/system/cpu/cpufreq", "policy*"):
        clock = _clock(policy, "scaling_{}_freq", unit=1e-3)
        limits = (clock.min_mhz, clock.max_mhz)
        name, known = found.get(limits, (policy.name.replace("policy", "cpu"), clock))
        found[limits] = name, max(known, clock, key=lambda c: c.current_mhz or 0)
    return dict(found.values())


def _gpu_clocks(root: Path) -> dict[str, Clock]:
    folders = sorted((root / "sys/class/devfreq").glob("*"))
    matches = {folder: match for folder in folders if (match := GPU.fullmatch(folder.name))}
    return {match[1]: _clock(folder, "{}_freq", unit=1e-6) for folder, match in matches.items()}


def _memory_clock(root: Path) -> dict[str, Clock]:
    """The clock of a Jetson's memory controller, which only root may read."""
    folder = root / "sys/kernel/debug/bpmp/debug/clk/emc"
    current_mhz = number(folder / "rate", 1e-6)
    if current_mhz is None:
        return {}
    limits = (number(folder / f"{bound}_rate", 1e-6) for bound in ("min", "max"))
    return {"emc": Clock(current_mhz, *limits)}


def _clock(folder: Path, pattern: str, unit: float) -> Clock:
    current, least, most = (number(folder / pattern.format(word), unit) for word in ("cur", "min", "max"))
    return Clock(current_mhz=current, min_mhz=least, max_mhz=most)


def _temperatures_c(root: Path) -> Iterator[tuple[str, float]]:
    """Of the thermal zones, and of AMD's processors, which have none."""
    for zone in numbered(root / "sys/class/thermal", "thermal_zone*"):
        name, value = text(zone / "type"), number(zone / "temp", 1e-3)
        if name and value is not None and value > -100:  # Orin says -256 where a zone has no power
            yield name, value
    for monitor in numbered(root / "sys/class/hwmon", "hwmon*"):
        value = number(monitor / "temp1_input", 1e-3)
        if text(monitor / "name") == "k10temp" and value is not None:
            yield "k10temp", value


def _alert(name: str, state: Path) -> Iterable[str]:
    return (name,) if number(state) else ()


def _reasons(gpu: nvml.Gpu) -> Iterable[str]:
    return (f"{gpu.label} {reason}" for reason in gpu.throttling())


def _events(root: Path) -> Iterator[tuple[str, int]]:
    """Counters of what made the hardware slow down: over-current of a Jetson, heat of an Intel processor."""
    for monitor in numbered(root / "sys/class/hwmon", "hwmon*"):
        for file, name in EVENTS.items():
            count = number(monitor / file)
            if count is not None:
                yield name, int(count)
    heat = number(root / "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count")
    if heat is not None:
        yield "processor heat", int(heat)
