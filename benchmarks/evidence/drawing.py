"""The Pareto drawing: what a network gains against what it costs to run."""

from __future__ import annotations

from pathlib import Path

from findings import Evidence

from edgemtl.core.files import replacing


def draw(evidence: Evidence, path: Path) -> None:
    """Draw Delta_m against the base twins over milliseconds on the fewest threads, a line a cell, as SVG.

    Whiskers are the 95 % intervals over the seeds, where there are several.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import StrMethodFormatter

    threads = min(evidence.pareto[0].latency_ms)
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasSVG(figure)
    axis = figure.subplots()
    for name in dict.fromkeys(point.name for point in evidence.pareto):
        line = sorted(
            (point for point in evidence.pareto if point.name == name), key=lambda p: p.latency_ms[threads]
        )
        x, y = [p.latency_ms[threads] for p in line], [p.overall.mean for p in line]
        below = [p.overall.mean - p.overall.t95[0] if p.overall.t95 else 0.0 for p in line]
        axis.errorbar(x, y, yerr=below, marker="o", capsize=3, label=name)  # Student's interval is symmetric
        for point in line:
            place = (point.latency_ms[threads], point.overall.mean)
            axis.annotate(point.size or "base", place, (4, 4), textcoords="offset points", fontsize=8)
    axis.axhline(0, color="gray", linewidth=0.8)
    axis.set_xscale("log")
    axis.margins(x=0.1)  # room for the last label
    for ticks in (axis.xaxis.set_major_formatter, axis.xaxis.set_minor_formatter):
        ticks(StrMethodFormatter("{x:g}"))  # 6, not 6 x 10^0
    axis.set_xlabel(f"latency of the bundle, ms (batch 1, {threads} thread{'s' * (threads > 1)})")
    axis.set_ylabel("Delta_m against the base twins, %")
    axis.legend(fontsize=8)
    # The same file for the same figures.
    with rc_context({"svg.hashsalt": evidence.grid}), replacing(path) as draft:
        figure.savefig(draft, format="svg", metadata={"Date": None})
