"""Reports side by side, if what they measured can be compared at all."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from edgemtl.bench.document import Document, figures, higher_is_better, read_report
from edgemtl.core.errors import UsageError
from edgemtl.core.report import EVALUATED_ON, ComparedRow, Comparison

# What must be equal, by kind of report. Runtime and precision may differ: they are what one compares.
ALIKE = {
    "bench": (
        "settings.layout",  # the figures at the top are those of one
        "settings.threads",
        "settings.batch",
        "device.machine",
        "device.cpu",
        "device.cores",
        "device.gpu",
        "device.board",
        "device.governor",
        "device.nvpmodel",
    ),
    "evaluate": EVALUATED_ON,
    "verify": ("manifest_sha256", "samples"),
}
# Besides, where both reports say: each runtime has settings of its own, and older reports said less.
ALIKE_WHERE_SAID = ("settings.size", "settings.arena", "settings.spinning")
ALIKE_VIDEO = ("settings.rates", "settings.keyframes")  # besides, for what a video costs


def compare(paths: Sequence[Path], *, force: bool = False) -> Comparison:
    """Read two or more reports and put their figures side by side.

    Raises:
        DataError: a file is no report.
        UsageError: fewer than two reports, or they are unlike; the first difference is named. ``force``
            compares them all the same, unless they are of unlike kinds.
    """
    if len(paths) < 2:
        raise UsageError(
            "compare", expected="two reports or more", found=str(len(paths)), fix="Name another report."
        )
    documents = [read_report(path) for path in paths]
    names = tuple(os.fsencode(path).decode(errors="replace") for path in paths)
    differences: dict[str, None] = {}  # an ordered set: several pairs may differ in the same way
    for (name, document), (other_name, other) in combinations(zip(names, documents, strict=True), 2):
        video = bool(document.get("video") and other.get("video"))
        unlike = require_alike(name, document, other_name, other, video=video, force=force)
        differences |= dict.fromkeys(unlike)
    columns = [figures(document) for document in documents]
    rows = []
    for path in dict.fromkeys(path for column in columns for path in column if _shown(path)):
        better = next((way for d in documents if (way := higher_is_better(d, path)) is not None), None)
        if better is not None:
            rows.append(ComparedRow(path, tuple(column.get(path) for column in columns), better))
    return Comparison(documents[0]["kind"], names, tuple(rows), tuple(differences))


def require_alike(
    name: str, document: Document, other_name: str, other: Document, *, video: bool, force: bool = False
) -> tuple[str, ...]:
    """The settings or facts of the device in which two reports differ; none, unless ``force`` allows them.
    ``video``: whether figures of a video are compared.

    Raises:
        UsageError: the reports are of unlike kinds; or they differ, without ``force``.
    """
    if document["kind"] != other["kind"]:
        raise _unlike(
            name, document["kind"], other_name, other["kind"], "kind", "Compare reports of one verb."
        )
    relevant = ALIKE[document["kind"]] + (ALIKE_VIDEO if video else ())
    paths = tuple(path for path in relevant if _at(document, path) != _at(other, path))
    said = ((path, _at(document, path), _at(other, path)) for path in ALIKE_WHERE_SAID)
    paths += tuple(path for path, a, b in said if a is not None and b is not None and a != b)
    if paths and not force:
        fix = "Measure both alike, or compare them all the same with --force."
        raise _unlike(name, _at(document, paths[0]), other_name, _at(other, paths[0]), paths[0], fix)
    return paths


def _at(document: Document, path: str) -> object:
    """The value at a dotted path, None where there is none."""
    first, _, rest = path.partition(".")
    found = document.get(first)
    return _at(found, rest) if rest and isinstance(found, Mapping) else found


def _unlike(name: str, here: object, other_name: str, there: object, path: str, fix: str) -> UsageError:
    return UsageError(other_name, expected=f"{path} {here}, as in {name}", found=str(there), fix=fix)


def _shown(path: str) -> bool:
    """Percentiles of everything would bury what matters: two at the top, one for a part."""
    if path.startswith("video."):
        return path.endswith((".latency_ms.mean", ".worst_latency_ms.p50"))
    if path.startswith(("layouts.", "segments.", "subsets.")):
        return path.endswith((".latency_ms.p50", ".max_abs"))
    return not path.startswith("latency_ms.") or path.endswith((".p50", ".p99"))
