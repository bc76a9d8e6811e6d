"""What a command prints: reports on stdout, what gates found on stderr."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
import typer

from edgemtl.core.errors import GateError
from edgemtl.core.files import json_bytes, replacing
from edgemtl.core.locate import newest

if TYPE_CHECKING:
    from edgemtl.core.report import Verdict


def show(*reports: msgspec.Struct, as_json: bool, out: Path | None = None) -> None:
    """Reports for a person, or as one JSON document for a script; then the latter also into a file. What took
    minutes to measure is seen even where it cannot be written, and written even where nobody reads on.
    """
    document = reports[0] if len(reports) == 1 else reports
    text = json_bytes(document)
    try:
        if as_json:
            typer.echo(text.decode(), nl=False)
        else:
            from rich.console import Console

            from edgemtl.report.views import view

            console = Console()
            for report in reports:
                console.print(view(report))
    finally:
        if out is not None:
            with replacing(out) as draft:
                draft.write_bytes(text)


def chosen(what: Literal["run", "bundle"]) -> Path:
    """The newest run or bundle, for a command that names none; said on stderr.

    Raises:
        DataError: there is none.
    """
    path = newest(what)
    typer.echo(f"{what}: {path}", err=True)
    return path


def gate(verdicts: tuple[Verdict, ...]) -> None:
    """Show on stderr what the gates found, and fail if one did not pass."""
    if not verdicts:
        return
    from rich.console import Console

    from edgemtl.report.tables import gates_table

    Console(stderr=True).print(gates_table(verdicts))
    failed = [verdict.gate for verdict in verdicts if not verdict.passed and verdict.value is not None]
    absent = [verdict.gate for verdict in verdicts if verdict.value is None]
    if failed or absent:
        said = {"failed": failed, "not measured": absent}
        found = "; ".join(f"{', '.join(gates)} {what}" for what, gates in said.items() if gates)
        raise GateError("gates", expected="all to pass", found=found, fix="See the table.")
