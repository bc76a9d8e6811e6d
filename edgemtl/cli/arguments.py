"""What several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A file, or the name of a recipe that ships.")
]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Changes to the recipe.")]
RunPath = Annotated[Path | None, typer.Argument(metavar="RUN", help="Default: the newest.")]
BundlePath = Annotated[Path | None, typer.Argument(metavar="BUNDLE", help="Default: the newest.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
ReportFile = Annotated[Path | None, typer.Option("--out", help="Also write the JSON report to this file.")]
Runtime = Annotated[
    str | None,
    typer.Option(help="Of bundles: ort, tensorrt or tensorrt-graph. Default: $EDGEMTL_RUNTIME, or ort."),
]
Threads = Annotated[int | None, typer.Option(min=1, help="Default: all cores.")]
Layout = Annotated[str | None, typer.Option(help="merged or split. Default: both, or merged.")]
Minimum = Annotated[
    list[str] | None, typer.Option("--min", metavar="PATH=X", help="Fail if a figure is lower.")
]
Maximum = Annotated[
    list[str] | None, typer.Option("--max", metavar="PATH=X", help="Fail if a figure is higher.")
]
Rates = Annotated[
    list[str] | None,
    typer.Option(metavar="TASK=N/M ...", help="Of a video, the share of the frames that compute a task."),
]
KeyframesText = Annotated[
    str | None,
    typer.Option(
        "--keyframes",
        metavar="every=8,threshold=0.02",
        help="Of a video, keep the trunk's features for so many frames, or until the picture has changed.",
    ),
]
