"""Facts of the machine that a measurement is made on, and how it fared meanwhile.

What cannot be read is None, never a guess. Every file is looked up under ``root``, so that the recorded tree
of another board can be read here.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import msgspec

from edgemtl.bench import nvml
from edgemtl.bench.conditions import alerts, read_conditions, warnings
from edgemtl.bench.power import PowerMeter
from edgemtl.bench.sampling import sampling
from edgemtl.bench.sysfs import ROOT, field, text
from edgemtl.core.device import Device
from edgemtl.runtime.session import available_cores


def device_facts(root: Path = ROOT) -> Device:
    """Machine, processor, usable cores, memory, system, Python, and what a board says about itself."""
    return Device(
        machine=platform.machine() or None,
        cpu=field(root / "proc/cpuinfo", "model name"),
        cores=available_cores(),
        memory_mib=_memory_mib(root),
        os=field(root / "etc/os-release", "PRETTY_NAME", separator="="),
        kernel=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        gpu=next((gpu.name for gpu in nvml.gpus(root)), None),
        board=text(root / "proc/device-tree/model"),
        governor=text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        l4t=_l4t(root),
        jetpack=_jetpack(root),
        nvpmodel=_nvpmodel(root),
    )


class Watch:
    """Watches the machine during a measurement: ``device`` has the whole story once the block has ended."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self.device = device_facts(root)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Conditions before and after, power and what throttles meanwhile."""
        meter, tellers, seen = PowerMeter(self._root), alerts(self._root), dict[str, None]()  # an ordered set

        def look() -> None:
            seen.update(dict.fromkeys(name for tell in tellers for name in tell()))

        before = read_conditions(self._root)
        with meter.running(), sampling(look) if tellers else nullcontext():
            yield
        after = read_conditions(self._root)
        self.device = msgspec.structs.replace(
            self.device, before=before, after=after, power=meter.power, warnings=warnings(before, after, seen)
        )


def _memory_mib(root: Path) -> float | None:
    total = field(root / "proc/meminfo", "MemTotal")
    return None if total is None else round(int(total.split()[0]) / 1024)


def _l4t(root: Path) -> str | None:
    """The release of Linux for Tegra: ``36.4.3`` from ``# R36 (release), REVISION: 4.3, ...``."""
    found = re.match(r"# R(\d+) \(release\), REVISION: ([\d.]+)", text(root / "etc/nv_tegra_release") or "")
    return ".".join(found.groups()) if found else None


def _jetpack(root: Path) -> str | None:
    """The version of the package nvidia-jetpack. Not from L4T: 36.4 alone belongs to 6.1 and 6.2."""
    packages = (text(root / "var/lib/dpkg/status") or "").split("\n\n")
    package = next((entry for entry in packages if entry.startswith("Package: nvidia-jetpack\n")), "")
    version = re.search(r"^Version: ([^+\n]+)", package, re.MULTILINE)
    return version[1] if version else None


def _nvpmodel(root: Path) -> str | None:
    """The power mode, by its name where nvpmodel.conf gives one to the number."""
    mode = re.search(r"pmode:(\d+)", text(root / "var/lib/nvpmodel/status") or "")
    if not mode:
        return None
    modes = text(root / "etc/nvpmodel.conf") or ""
    named = re.search(rf"< POWER_MODEL ID={int(mode[1])} NAME=(\S+) >", modes)
    return named[1] if named else f"mode {int(mode[1])}"
