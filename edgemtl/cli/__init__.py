"""The command line. A command is a few lines; what needs PyTorch is imported inside its body, so that help
and the verbs of the edge never load it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from edgemtl import __version__
from edgemtl.cli import desk, edge
from edgemtl.cli.recipes import data_app, recipes_app
from edgemtl.core.errors import EdgemtlError

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


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Train, collapse, export, verify and measure multitask networks for edge devices."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """The entry point: errors that a user can mend are one line and an exit code."""
    try:
        app()
    except EdgemtlError as error:
        if "--debug" in sys.argv:
            raise
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
