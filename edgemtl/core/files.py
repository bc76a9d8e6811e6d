"""Writing files so that a reader sees the old one or the new one, never half of one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from edgemtl.core.errors import SetupError


def json_bytes(value: object) -> bytes:
    """A value as every JSON file of edgemtl is written: indented, with a line end."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, beside ``path``, that replaces it once the block has ended well.

    Works for a file and for a folder. If the block fails, what it wrote is removed and ``path`` stays as it
    was.

    Raises:
        SetupError: the disk is full, or the folder is not writable.
    """
    # Always the same name, so that what a killed process left is taken over, not left behind.
    draft = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _remove(draft)
            yield draft
            if draft.is_dir():
                _exchange(draft, path)
            else:
                _sync(draft)
                draft.replace(path)
        finally:
            _remove(draft)
    except OSError as error:
        raise SetupError(
            path,
            expected="a place to write",
            found=error.strerror or str(error),
            fix="Free disk space or permissions there, or choose another folder; nothing was overwritten.",
        ) from error


def _exchange(draft: Path, path: Path) -> None:
    # A folder replaces another in two steps: the old one stands aside, whole, until the new one is there.
    aside = path.with_name(f".{path.name}.old")
    if path.exists():
        path.replace(aside)
    draft.replace(path)
    with suppress(OSError):
        _remove(aside)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
