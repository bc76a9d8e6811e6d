"""Reports side by side, if what they measured can be compared at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgemtl.bench.document import Document, figures, higher_is_better, leaves, read_report
from edgemtl.core.errors import RecipeError
from edgemtl.core.report import ComparedRow, Comparison

# What must be equal, by kind of report. Runtime and precision may differ: they are what one compares.
ALIKE = {
    "bench": (
        "settings.threads",
        "settings.batch",
        "settings.arena",
        "settings.spinning",
        "device.machine",
        "device.cpu",
        "device.cores",
        "device.board",
        "device.governor",
        "device.nvpmodel",
    ),
    "evaluate": ("data", "split", "images"),
    "verify": ("manifest_sha256", "samples"),
}


def compare(paths: Sequence[Path], *, force: bool = False) -> Comparison:
    """Read two or more reports and put their figures side by side.

    Raises:
        DataError: a file is no report.
        RecipeError: fewer than two reports, or they are unlike; the first difference is named. ``force``
            compares them all the same, unless they are of unlike kinds.
    """
    if len(paths) < 2:
        raise RecipeError(
            "compare", expected="two reports or more", found=str(len(paths)), fix="Name another report."
        )
    documents = [read_report(path) for path in paths]
    first, names = documents[0], tuple(str(path) for path in paths)
    differences: dict[str, None] = {}  # an ordered set: two reports may differ from the first in the same way
    for name, document in zip(names[1:], documents[1:], strict=True):
        differences |= dict.fromkeys(require_alike(names[0], first, name, document, force=force))
    columns = [figures(document) for document in documents]
    rows = []
    for path in dict.fromkeys(path for column in columns for path in column if _shown(path)):
        better = next((way for d in documents if (way := higher_is_better(d, path)) is not None), None)
        if better is not None:
            rows.append(ComparedRow(path, tuple(column.get(path) for column in columns), better))
    return Comparison(first["kind"], names, tuple(rows), tuple(differences))


def require_alike(
    name: str, document: Document, other_name: str, other: Document, *, force: bool = False
) -> tuple[str, ...]:
    """The settings or facts of the device in which two reports differ; none, unless ``force`` allows them.

    Raises:
        RecipeError: the reports are of unlike kinds; or they differ, without ``force``.
    """
    if document["kind"] != other["kind"]:
        raise _unlike(
            name, document["kind"], other_name, other["kind"], "kind", "Compare reports of one verb."
        )
    here, there = dict(leaves(document)), dict(leaves(other))
    paths = tuple(path for path in ALIKE[document["kind"]] if here.get(path) != there.get(path))
    if paths and not force:
        fix = "Measure both alike, or compare them all the same with --force."
        raise _unlike(name, here.get(paths[0]), other_name, there.get(paths[0]), paths[0], fix)
    return paths


def _unlike(name: str, here: object, other_name: str, there: object, path: str, fix: str) -> RecipeError:
    return RecipeError(other_name, expected=f"{path} {here}, as in {name}", found=str(there), fix=fix)


def _shown(path: str) -> bool:
    """Percentiles of everything would bury what matters: two at the top, one for a part."""
    if path.startswith("video."):
        return path.endswith((".latency_ms.mean", ".worst_latency_ms.p50"))
    if path.startswith(("layouts.", "segments.", "subsets.")):
        return path.endswith((".latency_ms.p50", ".max_abs"))
    return not path.startswith("latency_ms.") or path.endswith((".p50", ".p99"))
