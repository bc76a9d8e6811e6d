"""Reports as tables for a terminal: few columns, units in the headers, nothing that only color tells."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from edgemtl.core.report import (
    BenchReport,
    Comparison,
    EvalReport,
    Measure,
    Verdict,
    VerifyReport,
)


def bench_table(report: BenchReport) -> Table:
    """Every way of running a bundle: latency, memory, size, MACs. A star marks the layout that the caption
    is about."""
    settings = report.settings
    runtime = f" on {report.device.runtime}" if report.device.runtime else ""
    title = f"{report.bundle}{runtime}: batch {settings['batch']}, threads {settings['threads']}"
    table = new_table(title, "", "p50 ms", "p99 ms", "mem MiB", "file MiB", "MMAC")
    for name, measure in report.layouts.items():
        table.add_row(Name(f"{name} *" if name == settings["layout"] else name), *_measure_cells(measure))
    for heading, measures in ("segment", report.segments), ("subset", report.subsets):
        if measures:
            table.add_section()
            table.add_row(Name(heading, "bold"))
        for name, measure in measures.items():
            table.add_row(Name(name), *_measure_cells(measure))
    table.caption = Text(
        f"{number(report.images_per_s)} images/s, load {number(report.load_ms)} ms, "
        f"first inference {number(report.first_inference_ms)} ms"
    )
    for name, video in report.video.items():
        kinds = video.latency_ms, video.worst_latency_ms, video.full_latency_ms
        mean, worst, full = (number(stats.mean) for stats in kinds)
        table.caption.append(f"\n{name} video: {mean} ms a frame, the dearest {worst}, all tasks {full}")
    return table


def verify_table(report: VerifyReport) -> Table:
    """Each layout and task: the error against the golden outputs and where it is worst."""
    title = f"{report.bundle} on {report.runtime}: atol {report.atol:.3g}, rtol {report.rtol:.3g}"
    table = new_table(title, "", "max abs", "atol", "mean abs", "worst at", "")
    means: list[str] = []
    for layout, tasks in report.layouts.items():
        for task, deviation in tasks.items():
            row, column = deviation.pixel
            table.add_row(
                Name(f"{layout} {task}"),
                f"{deviation.max_abs:.1e}",
                f"{deviation.atol:.1e}",
                f"{deviation.mean_abs:.1e}",
                f"#{deviation.sample} {row},{column}",
                _outcome(deviation.passed),
            )
            if not deviation.passed and deviation.mean_atol is not None:
                means.append(
                    f"{layout} {task}: mean abs {deviation.mean_abs:.1e} of {deviation.mean_atol:.1e}"
                )
    notes = [f"{report.samples} golden samples; worst at: #sample row,column", *means]
    table.caption = Text("\n".join(notes))
    return table


def eval_table(report: EvalReport) -> Table:
    """Every metric of every task; with a baseline, Delta_m by metric, by task and overall."""
    title = f"{report.subject} ({report.network}) on {report.data} {report.split}"
    compared = report.delta_m is not None
    table = new_table(title, "", "value", "unit", "", *(["Delta %"] if compared else []))
    for task, infos in report.metrics.items():
        for info in infos:
            arrow = "higher" if info.higher_is_better else "lower"
            value = number(report.tasks.get(task, {}).get(info.name))
            unit = "" if info.unit == "1" else info.unit
            gain = [_gain(report.delta_m_metrics.get(task, {}).get(info.name))] if compared else []
            table.add_row(Name(f"{task} {info.name}"), value, unit, arrow, *gain)
    if compared:
        table.add_section()
        table.add_row("Delta_m", "", "", "higher", _gain(report.delta_m))
        for task, mean in report.delta_m_tasks.items():
            table.add_row(Name(f"Delta_m {task}"), "", "", "higher", _gain(mean))
    baseline = f", baseline {report.baseline}" if report.baseline else ""
    table.caption = Text(f"{report.images} images{baseline}")
    if report.video is not None:
        ages = ", ".join(f"{task} {number(age)}" for task, age in report.video.age_frames.items())
        calls = ", ".join(f"{file} {number(share)}" for file, share in report.video.calls.items())
        table.caption.append(f"\nmean age in frames: {ages}\nruns a frame: {calls}")
    return table


def gates_table(verdicts: Sequence[Verdict]) -> Table:
    """Every gate with what was found, what was allowed, and the outcome."""
    table = new_table("gates", "", "found", "limit", "")
    for verdict in verdicts:
        sign = ">=" if verdict.bound == "at least" else "<="
        limit = f"{sign} {number(verdict.limit)}"
        table.add_row(Name(verdict.gate), number(verdict.value), limit, _outcome(verdict.passed))
    return table


def comparison_table(comparison: Comparison) -> Table:
    """Reports in columns A, B, ...; after the first, with the change against it in percent."""
    letters = [chr(ord("A") + column) for column in range(len(comparison.names))]
    table = new_table(f"{comparison.kind} reports", "", *letters, "better")
    for row in comparison.rows:
        first, *others = row.values
        changed = (_changed(value, first, row.higher_is_better) for value in others)
        table.add_row(Name(row.path), number(first), *changed, "higher" if row.higher_is_better else "lower")
    legend = [f"{letter}: {name}" for letter, name in zip(letters, comparison.names, strict=True)]
    if comparison.differences:
        legend.append(f"unlike in {', '.join(comparison.differences)}")
    table.caption = Text("\n".join(legend))
    return table


class Name:
    """A name in the first column: where that is narrow, it breaks behind a separator, never inside a word."""

    def __init__(self, name: str, style: str = "") -> None:
        self.style = style
        self.words = re.findall(r"[^ _.+]*[ _.+]+|[^ _.+]+", name)

    def __str__(self) -> str:
        return "".join(self.words)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(max(map(len, self.words)), len(str(self)))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = [""]
        for word in self.words:
            if lines[-1] and len(lines[-1]) + len(word.rstrip()) > options.max_width:
                lines.append("")
            lines[-1] += word
        yield Text("\n".join(lines), self.style, overflow="fold")


def new_table(title: str, *headers: str) -> Table:
    """A table of names and numbers. On a narrow terminal a ``Name`` takes several lines, numbers never do."""
    # Text, because a path in brackets would be taken for markup.
    table = Table(title=Text(title), title_justify="left", caption_justify="left")
    table.box, table.show_edge, table.padding = box.SIMPLE_HEAD, False, (0, 1, 0, 0)
    first, *others = headers
    table.add_column(first)
    for header in others:
        table.add_column(header, justify="right", no_wrap=True)
    return table


def number(value: float | None) -> str:
    """Three digits, whole numbers from 100 on, and a dash for what was not measured."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def _gain(percent: float | None) -> str:
    return "-" if percent is None else f"{percent:+.2f}"


def _measure_cells(measure: Measure) -> tuple[str, ...]:
    latency = measure.latency_ms
    figures = (
        latency.p50,
        latency.p99,
        measure.memory_mib,
        measure.size_mib,
        measure.macs / 1e6,
    )
    return tuple(map(number, figures))


def _changed(value: float | None, first: float | None, higher_is_better: bool) -> Text:
    if value is None or not first:
        return Text(number(value))
    percent = 100 * (value - first) / abs(first)
    worse = percent < 0 if higher_is_better else percent > 0
    return Text.assemble(number(value), " ", (f"{percent:+.1f}%", "red" if worse else "green"))


def _outcome(passed: bool) -> Text:
    return Text("pass", style="green") if passed else Text("FAIL", style="bold red")
