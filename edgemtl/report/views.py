"""The view of each report for a terminal."""

from __future__ import annotations

from functools import singledispatch

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgemtl.core.bundle import Manifest
from edgemtl.core.diagnosis import Diagnosis
from edgemtl.core.inspection import Certificate, DataCheck, Inspection, Part
from edgemtl.core.report import BenchReport, Comparison, EvalReport, VerifyReport
from edgemtl.report.tables import (
    Name,
    bench_table,
    comparison_table,
    eval_table,
    new_table,
    number,
    verify_table,
)


@singledispatch
def view(report: object) -> RenderableType:
    """What a person sees of a report."""
    raise TypeError(f"no view of {type(report).__name__}")


view.register(VerifyReport, verify_table)
view.register(EvalReport, eval_table)
view.register(Comparison, comparison_table)


@view.register
def bench_view(report: BenchReport) -> RenderableType:
    """The price list; under it the power of the whole board, or else of each rail, and what warns."""
    views: list[RenderableType] = [bench_table(report)]
    power = report.device.power
    if power is not None:
        shown = power.rails if power.total is None else {power.total: power.rails[power.total]}
        rails = (
            f"{name} {number(rail.mean_w)} W, at most {number(rail.max_w)} W" for name, rail in shown.items()
        )
        views.append(Text("; ".join(rails)))
    views += (Text(f"warning: {warning}", "bold red") for warning in report.device.warnings)
    return Group(*views)


@view.register
def doctor_view(diagnosis: Diagnosis) -> RenderableType:
    """What is there and what is not, with how to get it on a line of its own."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    styles = {"ok": "green", "absent": "dim", "broken": "bold red"}
    for finding in diagnosis.findings:
        grid.add_row(Text(finding.state, styles[finding.state]), Text(finding.name), Text(finding.found))
        if finding.fix:
            grid.add_row("", "", Text(f"-> {finding.fix}"))
    return grid


@view.register
def certificate_view(certificate: Certificate) -> RenderableType:
    """Errors per task and precision, what collapsing saved, and metrics before and after."""
    table = new_table("collapsed", "", "fp32 rel", "fp64 rel")
    for task, agreement in certificate.fp32.items():
        table.add_row(Name(task), f"{agreement.relative:.1e}", f"{certificate.fp64[task].relative:.1e}")
    (trained, plain), (before, after) = certificate.parameters, certificate.macs
    views: list[RenderableType] = [
        table,
        Text(f"parameters {trained:,} -> {plain:,}"),
        Text(f"MMAC {before / 1e6:,.1f} with composing -> {after / 1e6:,.1f}"),
    ]
    if certificate.scores:
        scores = new_table(f"on {certificate.split}", "", "trained", "collapsed")
        for task, metrics in certificate.scores.items():
            for name, (first, second) in metrics.items():
                scores.add_row(Name(f"{task} {name}"), number(first), number(second))
        views.append(scores)
    views += (Text(f"{kept.layer} stays: {kept.reason}") for kept in certificate.unfolded)
    return Group(*views)


@view.register
def manifest_view(manifest: Manifest) -> RenderableType:
    """Of a bundle below fp32: the precision of its parts, and what that cost in accuracy."""
    lowered = manifest.lowered
    assert lowered is not None, "fp32 has nothing of this to show"
    table = new_table(
        f"{manifest.name} in {manifest.precision}", "", "precision", "share of the budget alone"
    )
    for part, precision in lowered.parts.items():
        table.add_row(Name(part), precision, number(lowered.sensitivity.get(part)))
    views: list[RenderableType] = [table]
    scores = new_table("", "", "fp32", manifest.precision)
    for task, info in manifest.tasks.items():
        for name, value in info.accuracy.items():
            scores.add_row(Name(f"{task} {name}"), number(info.accuracy_fp32.get(name)), number(value))
    if scores.row_count:
        views.append(scores)
    if lowered.calibration:
        views.append(
            Text(
                f"{lowered.activations} activations, {lowered.calibration} over"
                f" {lowered.calibration_images} images"
            )
        )
    return Group(*views)


@view.register
def inspection_view(inspection: Inspection) -> RenderableType:
    """The parts of a network under the names of their segments, with what each costs."""
    height, width = inspection.size
    title = f"{inspection.subject} at {height}x{width}"
    table = new_table(title, "", "output", "trained", "deployed", "MMAC")
    segments: dict[str, list[Part]] = {}
    for part in inspection.parts:
        segments.setdefault(part.segment, []).append(part)
    for segment, parts in segments.items():
        if len(segments) < len(inspection.parts):  # in a bundle every part is a segment
            table.add_section()
            table.add_row(Name(segment, "bold"))
        for part in parts:
            shape = "x".join(map(str, part.shape))
            table.add_row(Name(part.name), shape, *_cost_cells(part))
    table.add_section()
    table.add_row("total", "", *_cost_cells(inspection))
    table.caption = Text(f"weights would take {inspection.parameters * 4 / 2**20:.2f} MiB in fp32")
    reasons: dict[str, list[str]] = {}
    for kept in inspection.plain:
        reasons.setdefault(kept.reason, []).append(kept.layer)
    plain = [Text(f"plain, {reason}: {', '.join(layers)}") for reason, layers in reasons.items()]
    return Group(table, *plain)


def _cost_cells(costs: Part | Inspection) -> tuple[str, str, str]:
    return f"{costs.trained:,}", f"{costs.parameters:,}", number(costs.macs / 1e6)


@view.register
def data_view(check: DataCheck) -> RenderableType:
    """Labels of a split: the share of valid pixels, the share of each class, the range of depths."""
    height, width = check.size
    table = new_table(f"{check.split}: {check.images} images {height}x{width}", "", "valid", "spread")
    for name, label in check.labels.items():
        depths = "" if label.depth_m is None else f"{label.depth_m[0]:.2f}..{label.depth_m[1]:.2f} m"
        table.add_row(Name(name), f"{label.valid:.1%}", depths)
        for class_name, share in label.classes.items():
            table.add_row(Name(f"  {class_name}"), "", f"{share:.1%}")
    return table
