"""Curves of a training, from metrics.jsonl."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from edgemtl.core.files import replacing


def plot_curves(records: list[dict[str, Any]], path: Path) -> None:
    """Draw the losses and every metric of each task over the epochs, and other losses alone, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    evaluated = [record for record in records if "validation" in record]
    epochs = [record["epoch"] for record in evaluated]
    scores = evaluated[-1]["validation"] if evaluated else {}
    # A task that no batch of an epoch had a label for has no loss there, and may have scores all the same.
    tasks = dict.fromkeys([*scores, *(task for record in records for task in record["losses"])])
    metrics = {task: list(scores.get(task, ())) for task in tasks}
    columns = 1 + max(map(len, metrics.values()), default=0)
    rows = max(len(metrics), 1)
    figure = Figure(figsize=(2.6 * columns, 2.1 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for row, (task, names) in zip(axes, metrics.items(), strict=False):
        # The dots show an epoch that stands alone.
        losses = [r["losses"].get(task, math.nan) for r in records]
        row[0].plot([r["epoch"] for r in records], losses, ".-", label="train")
        # What training alone minimizes, such as the distance to a teacher, has no loss on validation images.
        validation = [r["validation_losses"].get(task, math.nan) for r in evaluated]
        row[0].plot(epochs, validation, ".-", label="validation")
        row[0].set_title(f"{task}: loss", fontsize=9)
        row[0].legend(fontsize=7)
        for axis, name in zip(row[1:], names, strict=False):
            axis.plot(
                epochs,
                [r["validation"][task].get(name, math.nan) for r in evaluated],
                ".-",
                color="tab:orange",
            )
            axis.set_title(f"{task}: {name}", fontsize=9)
        for axis in row[1 + len(names) :]:
            axis.set_axis_off()
        for axis in row:
            axis.tick_params(labelsize=7)
            axis.set_xlabel("epoch", fontsize=7)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    with replacing(path) as draft:
        figure.savefig(draft, format="png", dpi=110)
