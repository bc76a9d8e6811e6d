"""Errors that a user can mend. Each says where, what was expected, what was found, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LISTED = 20  # names, at most: a figure of a report has hundreds beside it


class EdgemtlError(Exception):
    """The base of every expected failure: one line for a person, an exit code for a script.

    ``str(error)`` reads ``WHERE: expected EXPECTED, found FOUND. FIX``.
    """

    exit_code = 1

    def __init__(self, where: object, *, expected: str, found: str, fix: str) -> None:
        self.where, self.expected, self.found, self.fix = str(where), expected, found, fix
        # What is found may be a sentence: another error, or what a library says.
        super().__init__(f"{where}: expected {expected}, found {found.removesuffix('.')}. {fix}")

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders (loader workers, training processes), so they must pickle.
        return _rebuild, (type(self), self.where, self.expected, self.found, self.fix)


def _rebuild(kind: type[EdgemtlError], where: str, expected: str, found: str, fix: str) -> EdgemtlError:
    return kind(where, expected=expected, found=found, fix=fix)


class TrainingError(EdgemtlError):
    """Training cannot go on, for example because a loss is not finite."""


class UsageError(EdgemtlError):
    """A recipe, an override, an option or an argument is wrong."""

    exit_code = 2


class GateError(EdgemtlError):
    """A gate, a verification or a certificate failed."""

    exit_code = 3


class BundleError(GateError):
    """A bundle is not what its manifest says."""


class SetupError(EdgemtlError):
    """The machine lacks something: a package, a device, disk space, permission."""

    exit_code = 4


class DataError(EdgemtlError):
    """A dataset, a run or a weights file is missing, damaged or foreign."""

    exit_code = 5


def first_line(error: BaseException) -> str:
    """What another library says of a failure, or what kind it is where it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that offers the known name closest to ``name``, or lists those that are known."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"Did you mean `{close[0]}`?"
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"Known: {', '.join(names[:LISTED]) or 'none'}{more}."
