"""A trap for whatever unpickles files that it should not trust."""

from __future__ import annotations

from pathlib import Path


class Touch:
    """Its pickle creates a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)
