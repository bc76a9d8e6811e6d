"""The command line. A command is a few lines; what needs PyTorch is imported inside its body, so that help
and the verbs of the edge never load it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Annotated

import typer

from edgemtl import __version__
from edgemtl.cli import desk, edge
from edgemtl.cli.recipes import data_app, recipes_app
from edgemtl.core.errors import EdgemtlError, SetupError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # boxes would double the time that help takes
    pretty_exceptions_enable=False,
    help="Train, collapse, export, verify and measure multitask networks for edge devices.",
)
# In the order of help.
for verb in (
    desk.train,
    desk.evaluate,
    desk.collapse,
    desk.export,
    edge.verify,
    edge.bench,
    edge.run,
    desk.inspect,
    edge.compare,
    edge.doctor,
):
    app.command()(verb)
app.add_typer(recipes_app, name="recipes")
app.add_typer(data_app, name="data")

# Options that take NAME=VALUE as often as one likes.
SEVERAL = {"--rates", "--budget", "--keep", "--min", "--max", "--max-regress"}


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    # For help alone: it may stand behind a verb, too, so `main` itself looks for it.
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error. Also after a verb.")
    ] = False,
) -> None:
    """Train, collapse, export, verify and measure multitask networks for edge devices."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """The entry point: errors that a user can mend are one line and an exit code."""
    try:
        app(_words(sys.argv[1:]))
    except (EdgemtlError, ModuleNotFoundError, OSError) as error:
        if "--debug" in sys.argv:
            raise
        told = _told(error)
        typer.echo(f"error: {told}", err=True)
        sys.exit(told.exit_code)


def _words(given: Iterable[str]) -> list[str]:
    """The command line as typer reads it: without --debug, which may stand anywhere, and with an option for
    each of the values that follow one, as in ``--budget segmentation.miou=0.5 depth.abs=1%``."""
    words: list[str] = []
    for word in given:
        if words[-2:-1] and words[-2] in SEVERAL and "=" in word and not word.startswith("-"):
            words.append(words[-2])
        if word != "--debug":
            words.append(word)
    return words


def _told(error: EdgemtlError | ModuleNotFoundError | OSError) -> EdgemtlError:
    if isinstance(error, EdgemtlError):
        return error
    if isinstance(error, ModuleNotFoundError):
        return _missing(error)
    return SetupError(
        error.filename or "output",
        expected="to read or write it",
        found=error.strerror or str(error),
        fix="Check the path, who may use it, and the space on the disk.",
    )


def _missing(error: ModuleNotFoundError) -> SetupError:
    """Where only the edge is installed, the first import of a verb of the desk fails."""
    package = (error.name or "").partition(".")[0]
    if package in ("", "edgemtl"):
        raise error
    return SetupError(
        "packages of the desk",
        expected=package,
        found="none",
        fix="Install them with `pip install 'edgemtl[desk]'`.",
    )
