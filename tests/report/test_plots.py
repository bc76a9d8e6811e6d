from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from PIL import Image

from edgemtl.core.errors import SetupError
from edgemtl.report.plots import plot_curves

BLUE, ORANGE = (31, 119, 180), (255, 127, 14)  # training, validation


def records(
    epochs: int, *, every: int = 1, tasks: tuple[str, ...] = ("depth", "normals")
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for epoch in range(1, epochs + 1):
        record = {"epoch": epoch, "step": 10 * epoch, "losses": dict.fromkeys(tasks, 1 / epoch)}
        if epoch % every == 0:
            record["validation_losses"] = dict.fromkeys(tasks, 1.2 / epoch)
            record["validation"] = {task: {"abs": 1 / epoch, "rel": math.nan} for task in tasks}
        found.append(record)
    return found


def colors(path: Path) -> dict[tuple[int, ...], int]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    values, counts = np.unique(pixels, axis=0, return_counts=True)
    return dict(zip(map(tuple, values.tolist()), counts.tolist(), strict=True))


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.height, image.width


def test_curves_are_a_picture_with_both_lines(tmp_path: Path) -> None:
    plot_curves(records(6, every=2), tmp_path / "plots" / "curves.png")
    found = colors(tmp_path / "plots" / "curves.png")
    assert found[BLUE] > 100
    assert found[ORANGE] > 100


def test_there_is_a_row_for_a_task_and_a_column_for_a_metric(tmp_path: Path) -> None:
    plot_curves(records(2, tasks=("depth",)), tmp_path / "one.png")
    plot_curves(records(2, tasks=("depth", "normals", "edges")), tmp_path / "three.png")
    plot_curves(records(2, every=3, tasks=("depth",)), tmp_path / "not_evaluated.png")
    height, width = size(tmp_path / "one.png")
    assert size(tmp_path / "three.png") == (3 * height, width)
    assert size(tmp_path / "not_evaluated.png") == (height, width // 3)


def test_a_loss_that_training_alone_knows_has_a_row_too(tmp_path: Path) -> None:
    content = records(2, tasks=("depth",))
    plot_curves(content, tmp_path / "one.png")
    for record in content:
        record["losses"]["distill.depth"] = 0.5
    plot_curves(content, tmp_path / "two.png")
    (height, width), (taller, same) = size(tmp_path / "one.png"), size(tmp_path / "two.png")
    assert (taller, same) == (2 * height, width)


def test_an_epoch_that_stands_alone_can_be_seen(tmp_path: Path) -> None:
    alone, unknown = records(1), records(1)
    unknown[0]["validation"] = {task: {"abs": math.nan, "rel": math.nan} for task in ("depth", "normals")}
    pictures = {"alone": alone, "unknown": unknown, "not evaluated": records(1, every=2)}
    for name, content in pictures.items():
        plot_curves(content, tmp_path / f"{name}.png")
    metrics, losses, legends = (colors(tmp_path / f"{name}.png")[ORANGE] for name in pictures)
    assert metrics > losses > legends


def test_a_place_that_cannot_be_written_is_a_setup_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError):
        plot_curves(records(1), tmp_path / "file" / "curves.png")


def test_a_task_without_a_label_in_some_epoch_has_its_row(tmp_path: Path) -> None:
    plot_curves(records(3), tmp_path / "all.png")
    for without in (0, 2):  # in the first, or in the last, which names the rows
        some = records(3)
        del some[without]["losses"]["normals"]
        plot_curves(some, tmp_path / "some.png")
        assert size(tmp_path / "some.png") == size(tmp_path / "all.png")


def test_epochs_without_any_label_draw_an_empty_picture(tmp_path: Path) -> None:
    plot_curves([{"epoch": 1, "step": 1, "losses": {}}], tmp_path / "curves.png")
    assert min(size(tmp_path / "curves.png")) > 0
