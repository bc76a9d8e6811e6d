"""Draws a run: its curves, and predictions for its samples beside the truth."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.core.bundle import Classes, Output, Scalar
from edgemtl.report.pictures import (
    Picture,
    caption,
    class_picture,
    legend,
    picture,
    save_grid,
    scalar_picture,
    value_range,
    vector_picture,
)
from edgemtl.report.plots import plot_curves
from edgemtl.run import Run

ROWS = 4


def illustrate(run: Run) -> None:
    """Write plots/curves.png and plots/samples.png: image, then truth and prediction of every task.

    Raises:
        SetupError: the files cannot be written.
    """
    plot_curves(run.metrics, run.path / "plots" / "curves.png")
    samples = run.samples
    with torch.no_grad():
        predictions = run.trained()(samples.image[:ROWS])
    rows = [[_rgb(image)] for image in samples.image[:ROWS]]
    titles, legends = ["image"], {}
    for name, task in run.recipe.tasks.items():
        labels = samples.labels[task.label_name][:ROWS].numpy()
        # One scale for truth and predictions of all rows, or colors could not be compared.
        limits = (
            value_range(np.where(labels > 0, labels, np.nan))
            if isinstance(task.output, Scalar)
            else (0.0, 1.0)
        )
        if isinstance(task.output, Classes):
            legends[name] = legend(task.output, labels, predictions[name].argmax(dim=1).numpy())
        titles += [caption(name, task.output, limits), "predicted"]
        for row, label, prediction in zip(rows, labels, predictions[name].numpy(), strict=True):
            row += [_truth(label, task.output, limits), picture(prediction, task.output, limits=limits)]
    save_grid(run.path / "plots" / "samples.png", rows, titles, legends)


def _rgb(image: Tensor) -> Picture:
    pixels: Picture = (image * 255).round().byte().movedim(0, -1).numpy()
    return pixels


def _truth(label: NDArray[np.float32], output: Output, limits: tuple[float, float]) -> Picture:
    """A label as a picture; black where nobody labeled."""
    if isinstance(output, Classes):
        return class_picture(label)
    if isinstance(output, Scalar):
        return scalar_picture(np.where(label[0] > 0, label[0], np.nan), limits)
    shown = vector_picture(label)
    shown[(label == 0).all(axis=0)] = 0
    return shown
