"""The view of each report for a terminal."""

from __future__ import annotations

from functools import singledispatch

from rich.console import Group, RenderableType
from rich.text import Text

from edgemtl.core.inspection import Certificate, DataCheck, Inspection
from edgemtl.core.report import BenchReport, Comparison, EvalReport, VerifyReport
from edgemtl.report.tables import _number, _table, bench_table, comparison_table, eval_table, verify_table


@singledispatch
def view(report: object) -> RenderableType:
    """What a person sees of a report."""
    raise TypeError(f"no view of {type(report).__name__}")


view.register(BenchReport, bench_table)
view.register(VerifyReport, verify_table)
view.register(EvalReport, eval_table)
view.register(Comparison, comparison_table)


@view.register
def certificate_view(certificate: Certificate) -> RenderableType:
    """Errors per task and precision, what collapsing saved, and metrics before and after."""
    table = _table("collapsed", "", "fp32 rel", "fp64 rel")
    for task, agreement in certificate.fp32.items():
        table.add_row(task, f"{agreement.relative:.1e}", f"{certificate.fp64[task].relative:.1e}")
    (trained, plain), (before, after) = certificate.parameters, certificate.macs
    table.caption = Text(
        f"parameters {trained:,} -> {plain:,}; "
        f"MACs with composing {before / 1e6:,.1f} M -> {after / 1e6:,.1f} M"
    )
    views: list[RenderableType] = [table]
    if certificate.scores:
        scores = _table(f"on {certificate.split}", "", "trained", "collapsed")
        for task, metrics in certificate.scores.items():
            for name, (first, second) in metrics.items():
                scores.add_row(f"{task} {name}", _number(first), _number(second))
        views.append(scores)
    views += (Text(f"{kept.layer} stays: {kept.reason}") for kept in certificate.unfolded)
    return Group(*views)


@view.register
def inspection_view(inspection: Inspection) -> RenderableType:
    """The parts of a network with what each costs."""
    height, width = inspection.size
    table = _table(
        f"{inspection.subject} at {height}x{width}", "", "tasks", "output", "trained", "deployed", "MMAC"
    )
    segment = ""
    for part in inspection.parts:
        if part.segment != segment:
            table.add_section()
            segment = part.segment
        shape = "x".join(map(str, part.shape))
        table.add_row(
            part.name,
            " ".join(part.tasks),
            shape,
            f"{part.trained:,}",
            f"{part.parameters:,}",
            f"{part.macs / 1e6:,.1f}",
        )
    table.add_section()
    table.add_row(
        "total",
        "",
        "",
        f"{inspection.trained:,}",
        f"{inspection.parameters:,}",
        f"{inspection.macs / 1e6:,.1f}",
    )
    mib = inspection.parameters * 4 / 2**20
    table.caption = Text(f"weights {mib:.2f} MiB in fp32")
    reasons: dict[str, list[str]] = {}
    for kept in inspection.plain:
        reasons.setdefault(kept.reason, []).append(kept.layer)
    plain = [Text(f"plain, {reason}: {', '.join(layers)}") for reason, layers in reasons.items()]
    return Group(table, *plain)


@view.register
def data_view(check: DataCheck) -> RenderableType:
    """Labels of a split with their spread."""
    height, width = check.size
    table = _table(f"{check.split}: {check.images} images {height}x{width}", "", "valid", "spread")
    for name, label in check.labels.items():
        spread = "  ".join(f"{key} {share:.1%}" for key, share in label.classes.items())
        if label.depth_m is not None:
            spread = f"{label.depth_m[0]:.2f}..{label.depth_m[1]:.2f} m"
        table.add_row(name, f"{label.valid:.1%}", spread)
    return table
