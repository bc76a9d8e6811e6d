"""Facts about the machine that a measurement was made on. What cannot be read is None, never a guess."""

from __future__ import annotations

import platform
from pathlib import Path

from edgemtl.runtime.session import available_cores

BOARD = Path("/proc/device-tree/model")
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def device_facts() -> dict[str, str | int | float | None]:
    """Machine, processor, usable cores, memory, system, Python, board and the governor of CPU 0."""
    return {
        "machine": platform.machine() or None,
        "cpu": _field(Path("/proc/cpuinfo"), "model name"),
        "cores": available_cores(),
        "memory_mib": _memory_mib(),
        "os": _field(Path("/etc/os-release"), "PRETTY_NAME", separator="="),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "board": _text(BOARD),
        "governor": _text(GOVERNOR),
    }


def _memory_mib() -> float | None:
    total = _field(Path("/proc/meminfo"), "MemTotal")
    return None if total is None else round(int(total.split()[0]) / 1024)


def _field(path: Path, name: str, separator: str = ":") -> str | None:
    for line in (_text(path) or "").splitlines():
        key, _, value = line.partition(separator)
        if key.strip() == name:
            return value.strip().strip('"') or None
    return None


def _text(path: Path) -> str | None:
    try:
        # The device tree ends its strings with a zero byte.
        return path.read_text(errors="replace").strip("\0\n ") or None
    except OSError:
        return None
