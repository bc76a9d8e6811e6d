"""What the board says of itself: facts, clocks, what slows it down, and what power it draws. Read, never set;
None where it does not tell.

Needs Python 3.8 and no package.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from functools import partial
from pathlib import Path
from typing import Any, Callable, Collection, Iterator

ROOT = Path(os.environ.get("EDGEMTL_ROOT") or "/")  # tests put a tree of a board's files here
# What a Jetson counts, in the words of NVIDIA's Jetson Linux guide.
EVENTS = {"oc1": "under-voltage", "oc2": "average over-current", "oc3": "instantaneous over-current"}
GPU = re.compile(r"(?:[0-9a-f]+\.)?(gpu.*|g[abpmv]\d+b)")  # 17000000.gpu, gpu-gpc-0
TOTALS = ("VDD_IN", "POM_5V_IN")  # the rails that feed a whole board, where it has one
INTERVAL_S = 0.2


def device_facts() -> dict[str, Any]:
    """What a figure depends on; None where the device does not tell."""
    temperatures_c = [_number(path, 1e-3) for path in ROOT.glob("sys/class/thermal/thermal_zone*/temp")]
    return {
        "board": _text(ROOT / "proc/device-tree/model"),
        "l4t": _text(ROOT / "etc/nv_tegra_release"),
        "governor": _text(ROOT / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "power_mode": _output("nvpmodel", "-q"),
        "hottest_c": max((value for value in temperatures_c if value is not None), default=None),
    }


def clocks() -> dict[str, dict[str, float | None]]:
    """Of the processors and the GPU: as each runs now, and the limits that are set."""
    found = {}
    for path in sorted(ROOT.glob("sys/devices/system/cpu/cpufreq/policy*")):
        found[path.name.replace("policy", "cpu")] = _clock(path, "scaling_{}_freq", 1e-3)
    for path in sorted(ROOT.glob("sys/class/devfreq/*")):
        match = GPU.fullmatch(path.name)
        if match:
            found[match[1]] = _clock(path, "{}_freq", 1e-6)
    return found


def slowdowns() -> dict[str, int]:
    """How often the board slowed down since it started, by reason; an alert counts 1 while it is on."""
    found = {}
    for path in sorted(ROOT.glob("sys/class/hwmon/hwmon*/oc*_event_cnt")):
        found[EVENTS.get(path.name[:3], path.name)] = int(_number(path) or 0)
    for path in _alert_states():
        found[_text(path.with_name("type")) or ""] = int(_number(path) or 0)
    return found


def warnings(before: dict[str, int], after: dict[str, int], meanwhile: Collection[str] = ()) -> list[str]:
    """What speaks against figures that were measured between two ``slowdowns``, with alerts in between."""
    kinds = [name for name in after if name.endswith("-alert")]
    alerts = [name for name in kinds if before.get(name) or after[name] or name in meanwhile]
    counted = [name for name in after if name not in alerts and after[name] > before.get(name, 0)]
    return [f"throttling: {name}" for name in alerts + counted]


class Watch:
    """Watches the board while the block runs; ``facts`` are there once it has ended."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        self._before, self._sampler = slowdowns(), Sampler()

    def __enter__(self) -> Watch:
        self._sampler.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        running = clocks()  # before they fall again
        self._sampler.__exit__(*error)
        self.facts.update(device=device_facts(), clocks=running, power=self._sampler.power())
        self.facts.update(warnings=warnings(self._before, slowdowns(), self._sampler.alerts))


def print_json(document: dict[str, Any]) -> None:
    """One document; JSON has no word for what is not finite, so that is null."""
    finite = json.loads(json.dumps(document), parse_constant=lambda name: None)
    print(json.dumps(finite, indent=2, allow_nan=False))


def print_facts(facts: dict[str, Any]) -> None:
    """Those of a ``Watch``, a line each."""
    for name, value in facts["device"].items():
        print(f"  {name}: {'unknown' if value is None else value}")
    for name, clock in facts["clocks"].items():
        print(f"  {name}: {clock['current_mhz']} MHz of {clock['min_mhz']}..{clock['max_mhz']}")
    for name, rail in facts["power"]["rails"].items() if facts["power"] else ():
        print(f"  {name}: {rail['mean_w']:.2f} W on average, {rail['max_w']:.2f} W at most")
    for warning in facts["warnings"]:
        print(f"  WARNING: {warning}")


class Sampler:
    """Samples every rail that the board's monitors name, and what slows it down, while the block runs, in a
    thread of its own.
    """

    def __init__(self) -> None:
        self.alerts: set[str] = set()
        self._states = {path: _text(path.with_name("type")) or "" for path in _alert_states()}
        self._rails: dict[str, Callable[[], float | None]] = {}
        for name, watts in _rails():
            self._rails[name if name not in self._rails else f"{name} #{len(self._rails)}"] = watts
        self._samples_w: dict[str, list[float]] = {name: [] for name in self._rails}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def power(self) -> dict[str, Any] | None:
        """Watts by rail; the total is that of a rail that feeds the whole board, never a sum of rails."""
        rails = {
            name: {"mean_w": sum(values) / len(values), "max_w": max(values), "samples": len(values)}
            for name, values in self._samples_w.items()
            if values
        }
        total = next((name for name in TOTALS if name in rails), None)
        if not rails:
            return None
        return {"total_w": rails[total]["mean_w"] if total else None, "total": total, "rails": rails}

    def _sample(self) -> None:
        while self._rails or self._states:
            for name, watts in self._rails.items():
                value = watts()
                if value is not None:
                    self._samples_w[name].append(value)
            self.alerts.update(name for path, name in self._states.items() if _number(path))
            if self._done.wait(INTERVAL_S):
                return


def _alert_states() -> list[Path]:
    """The files that say whether a throttle alert is on, each beside the ``type`` that names it."""
    devices = sorted(ROOT.glob("sys/class/thermal/cooling_device*"))
    return [d / "cur_state" for d in devices if (_text(d / "type") or "").endswith("-throttle-alert")]


def _rails() -> Iterator[tuple[str, Callable[[], float | None]]]:
    """Volts times amperes of an INA3221, or the power that a driver works out, as of Thor's INA238."""
    for path in sorted(ROOT.glob("sys/class/hwmon/hwmon*/in[123]_label")):
        name = _text(path)
        if name and name != "NC" and _text(path.with_name("name")) == "ina3221":  # NC: not connected
            yield name, partial(_product_w, path.parent, path.name[2])
    powers = [
        path for word in ("input", "average") for path in ROOT.glob(f"sys/class/hwmon/hwmon*/power*_{word}")
    ]
    for path in sorted(powers):
        label = _text(path.with_name(path.name.partition("_")[0] + "_label"))
        yield label or _text(path.with_name("name")) or path.parent.name, partial(_number, path, 1e-6)


def _product_w(folder: Path, channel: str) -> float | None:
    volts = _number(folder / f"in{channel}_input", 1e-3)
    amperes = _number(folder / f"curr{channel}_input", 1e-3)
    return None if volts is None or amperes is None else volts * amperes


def _clock(folder: Path, pattern: str, unit: float) -> dict[str, float | None]:
    names = {"current_mhz": "cur", "min_mhz": "min", "max_mhz": "max"}
    return {key: _number(folder / pattern.format(word), unit) for key, word in names.items()}


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip("\0\n ").partition("\n")[0] or None
    except OSError:  # sysfs also refuses to read a sensor that is asleep
        return None


def _number(path: Path, unit: float = 1.0) -> float | None:
    try:
        return int(_text(path) or "") * unit
    except ValueError:
        return None


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return " ".join(done.stdout.decode(errors="replace").split()) or None
