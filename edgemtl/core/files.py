"""Writing files so that a reader sees the old one or the new one, never half of one."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from edgemtl.core.errors import SetupError, UsageError

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux


def json_bytes(value: object) -> bytes:
    """A value as every JSON file of edgemtl is written: indented, with a line end."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def claim(path: Path) -> bool:
    """Make a folder, and those that it is in; False where there is something already. Of several processes
    that ask at once, one gets it.

    Raises:
        SetupError: it cannot be made.
    """
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        return False
    except OSError as error:
        raise _unwritable(path, error) from error
    return True


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, beside ``path``, that replaces it once the block has ended well.

    Works for a file, a folder, and what a link to one leads to. If the block fails, what it wrote is removed
    and ``path`` stays as it was.

    Raises:
        UsageError: ``path`` has no name of its own, as ``.``: a folder is not replaced from inside; or it is
            a device or a pipe.
        SetupError: the disk is full, or the folder is not writable.
    """
    if not path.name:
        raise UsageError(
            path, expected="a file or folder by its name", found="none", fix="Name one, as in `./result`."
        )
    path = _destination(path)
    # Always the same name, so that what a killed process left is taken over, not left behind.
    draft = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _recover(path)
        try:
            _remove(draft)
            yield draft
            if draft.is_dir():
                _exchange(draft, path)
            else:
                _sync(draft)
                draft.replace(path)
        finally:
            _recover(path)
            with suppress(OSError):  # what replaced or stopped it counts, not what is left of it
                _remove(draft)
    except OSError as error:
        raise _unwritable(path, error) from error


def _destination(path: Path) -> Path:
    """Where a path leads, if it is a link."""
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise UsageError(
                path, expected="a file or folder", found="a device or a pipe", fix="Name a file."
            )
        return path.resolve() if path.is_symlink() else path
    except (OSError, RuntimeError) as error:  # the latter: links that lead to each other
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError | RuntimeError) -> SetupError:
    found, name = getattr(error, "strerror", None) or str(error), getattr(error, "filename", None)
    return SetupError(
        path,
        expected="a place to write",
        found=f"{name}: {found}" if name else found,
        fix="Free disk space or permissions there, or choose another folder; nothing was overwritten.",
    )


def _exchange(draft: Path, path: Path) -> None:
    """Let a folder take the place of another, which is left in the draft's, or aside."""
    if not path.exists():
        draft.replace(path)
    elif not _swap(draft, path):
        path.replace(_aside(path))
        draft.replace(path)


def _swap(one: Path, other: Path) -> bool:
    """Exchange two paths in one step, if the system can: a reader never finds nothing."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError, TypeError):  # neither Linux nor a new libc
        return False
    return not rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)


def _aside(path: Path) -> Path:
    """Where a folder stands, whole, between the two steps that replace it where they cannot be one."""
    return path.with_name(f".{path.name}.old")


def _recover(path: Path) -> None:
    """After those steps, or one of them if something came between: the old one comes back, or goes."""
    if not path.exists() and _aside(path).exists():
        _aside(path).replace(path)
    with suppress(OSError):
        _remove(_aside(path))


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
