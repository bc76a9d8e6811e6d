"""The recorded trees of boards that stand in for the root of the file system."""

from __future__ import annotations

from pathlib import Path

BOARDS = Path(__file__).parents[1] / "fixtures/boards-sysfs"
NAMES = sorted(path.name for path in BOARDS.iterdir() if path.is_dir())
ORIN_NANO = BOARDS / "orin-nano"
THROTTLING = BOARDS / "orin-nano-throttling"
