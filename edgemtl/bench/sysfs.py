"""Reading what the kernel and the board tell in small files. What cannot be read is None, never a guess."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path("/")


def text(path: Path) -> str | None:
    """The contents of a small file without what ends it; None where it is empty or cannot be read."""
    try:
        # The device tree ends its strings with a zero byte.
        return path.read_text(errors="replace").strip("\0\n ") or None
    except OSError:  # sysfs also refuses to read a sensor that is asleep
        return None


def number(path: Path, unit: float = 1.0) -> float | None:
    """The number in a file times ``unit``; None where there is none."""
    try:
        return int(text(path) or "") * unit
    except ValueError:
        return None


def field(path: Path, name: str, separator: str = ":") -> str | None:
    """The value of the first line ``name: value`` of a file; None where it has none."""
    for line in (text(path) or "").splitlines():
        key, _, value = line.partition(separator)
        if key.strip() == name:
            return value.strip().strip('"') or None
    return None


def numbered(folder: Path, pattern: str) -> list[Path]:
    """What matches ``pattern`` in a folder, in the order of the numbers in the names."""
    return sorted(folder.glob(pattern), key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)])
