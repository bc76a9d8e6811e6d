"""One picture of a training that runs: progress, time left, losses and metrics per task."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from edgemtl.core.report import Observer, Progress, Scores


@contextmanager
def training_console() -> Iterator[Observer]:
    """An observer that draws on stderr: a live picture on a terminal, else a line for each
    epoch that was evaluated."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(console)
        return
    with Live(console=console, refresh_per_second=4, transient=False) as live:
        yield _Picture(live)


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, progress: Progress) -> None:
        if progress.scores is None:
            return
        parts = [f"epoch {progress.epoch}/{progress.epochs}", f"left {_clock(_left_s(progress))}"]
        # A loss may be no task's own, and an epoch have no label of a task.
        for name in dict.fromkeys([*progress.scores, *progress.losses]):
            loss = progress.losses.get(name, math.nan)
            values = (f" {metric} {value:.4g}" for metric, value in progress.scores.get(name, {}).items())
            parts.append(f"{name}: loss {loss:.4g}{''.join(values)}")
        self._console.print("  ".join(parts), highlight=False, soft_wrap=True)


class _Picture:
    def __init__(self, live: Live) -> None:
        self._live = live
        self._scores: Scores = {}
        self._losses: dict[str, float] = {}

    def __call__(self, progress: Progress) -> None:
        if progress.scores is not None:
            self._scores = progress.scores
        for task, loss in progress.losses.items():
            # Losses of single batches jump: show their running mean.
            self._losses[task] = 0.95 * self._losses.get(task, loss) + 0.05 * loss
        self._live.update(_draw(progress, self._losses, self._scores))


def _draw(progress: Progress, losses: Mapping[str, float], scores: Scores) -> RenderableType:
    head = Table.grid(padding=(0, 2))
    for is_bar in (False, True, False, False, False):
        head.add_column(no_wrap=not is_bar)  # where it is narrow, the bar gives way
    head.add_row(
        f"epoch {progress.epoch}/{progress.epochs}",
        ProgressBar(total=progress.steps, completed=progress.step, width=30),
        f"{progress.step}/{progress.steps}",
        f"left {_clock(_left_s(progress))}",
        f"lr {progress.lr:.2e}",
    )
    table = Table(box=None, pad_edge=False)
    for title in ("task", "loss", "metrics of the last evaluation"):
        table.add_column(title)
    for task in dict.fromkeys([*scores, *losses]):
        metrics = "  ".join(f"{name} {value:.4g}" for name, value in scores.get(task, {}).items())
        table.add_row(task, f"{losses.get(task, math.nan):.4f}", metrics or "-")
    return Group(head, table)


def _left_s(progress: Progress) -> float:
    return progress.elapsed_s / progress.step * (progress.steps - progress.step)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
