"""What the user hears of several processes. What they compute is in training/test_trainer.py."""

from __future__ import annotations

import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from edgemtl import workflow
from edgemtl.core.errors import DataError, SetupError, TrainingError, UsageError
from edgemtl.launch import _claim, rehearse
from tests.data import pictures
from tests.tiny import tiny


def test_an_error_of_a_process_is_the_same_as_without_processes(tmp_path: Path) -> None:
    told = []
    for devices in 1, 2:
        with pytest.raises(DataError, match="classes") as caught:
            workflow.train(
                tiny("tasks.segmentation.classes=7", f"training.devices={devices}"), tmp_path / "run"
            )
        told.append(str(caught.value))
    assert told[0] == told[1]
    assert not list(tmp_path.iterdir())


def test_damage_anywhere_in_the_data_is_found_before_a_run_exists(nyuv2_root: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(nyuv2_root, tmp_path / "data"))
    damaged = root / "val" / "depth" / "5.npy"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"val/depth/5\.npy: expected a whole"):
        workflow.train(tiny(f"data={{type: nyuv2, root: {root}}}"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_task_that_no_pixel_teaches_is_refused_before_a_run_exists(
    nyuv2_root: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(nyuv2_root, tmp_path / "data"))
    recipe = tiny(f"data={{type: nyuv2, root: {root}}}", "training.batch=2")
    unlabeled, *labeled = sorted((root / "train" / "depth").iterdir())
    np.save(unlabeled, np.zeros_like(np.load(unlabeled)))
    rehearse(recipe)
    for path in labeled:
        np.save(path, np.zeros_like(np.load(path)))
    message = r"\$\.tasks\.depth: expected a valid pixel .* in the split {}, found none in \d+ images"
    with pytest.raises(DataError, match=message.format("train")):
        rehearse(recipe)
    shutil.rmtree(root)
    shutil.copytree(nyuv2_root, root)
    for path in (root / "val" / "depth").iterdir():
        np.save(path, np.zeros_like(np.load(path)))
    with pytest.raises(DataError, match=message.format("val")):
        rehearse(recipe)


UNFIT = {
    "backbone.widths=[2, 2, 2, 2, 2, 2]": r"\$\.backbone: expected a network that takes images of 16x24",
    "training.update=alternating": "alternating",
    "training.factor_optimizer={type: sgd}": "factor",
}


@pytest.mark.parametrize("override", UNFIT)
def test_what_does_not_fit_is_refused_by_a_rehearsal_and_before_a_run_exists(
    override: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = (
        tiny("kernel=plain", "backbone.convs=[1, 1, 1, 1, 1, 1]", override)
        if "widths" in override
        else tiny("kernel=plain", override)
    )
    for attempt in rehearse, workflow.train:
        with pytest.raises(UsageError, match=UNFIT[override]):
            attempt(recipe)
    assert not list(tmp_path.rglob("runs/*"))


def test_what_fits_rehearses_without_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rehearse(tiny(), tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_a_rehearsal_minds_where_the_run_would_go(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    for out in tmp_path, tmp_path / "mine":
        with pytest.raises(UsageError, match="--out: expected a folder that does not exist or is empty"):
            rehearse(tiny(), out)


def test_trainings_that_start_at_once_get_runs_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(4) as threads:
        taken = list(threads.map(lambda _: _claim("tiny", None), range(8)))
    assert {path.as_posix() for path in taken} == {"runs/tiny", *(f"runs/tiny-{n}" for n in range(2, 9))}


def test_a_place_that_cannot_be_written_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="a place to write"):
        workflow.train(tiny(), tmp_path / "file" / "run")


def test_a_process_that_was_killed_is_an_error_of_training(tmp_path: Path) -> None:
    killed = partial(signal.raise_signal, signal.SIGKILL)
    with pytest.raises(TrainingError, match=r"training process 0: expected to finish, found .*SIGKILL"):
        workflow.train(tiny("training.devices=2"), tmp_path / "run", observe=killed)


def test_what_is_held_out_is_of_the_size_of_val(tmp_path: Path) -> None:
    """Else the bundle, which takes images of the one size, could not be evaluated on those of the other."""
    root = pictures.write(tmp_path, images=4, size=(16, 24))
    shutil.rmtree(root / "val")
    shutil.move(pictures.write(tmp_path / "large", images=2, size=(32, 48)) / "val", root / "val")
    labels = "{segmentation: {type: classes, names: [road, car, sky], void: [255]}}"
    recipe = tiny(
        f"data={{type: folder, root: {root}, holdout: 2, labels: {labels}}}",
        "training.batch=2",
        "tasks={segmentation: {classes: 3}}",
        "plan={}",
    )
    with pytest.raises(DataError, match=r"\$\.data: .*found \[16, 24\] and \[32, 48\]\. Set `size`"):
        rehearse(recipe)


def test_a_val_split_that_is_too_small_for_the_network_is_refused(tmp_path: Path) -> None:
    root = pictures.write(tmp_path, images=4, size=(16, 24))
    shutil.rmtree(root / "val")
    shutil.move(pictures.write(tmp_path / "small", size=(1, 2)) / "val", root / "val")
    labels = "{segmentation: {type: classes, names: [road, car, sky], void: [255]}}"
    recipe = tiny(
        f"data={{type: folder, root: {root}, labels: {labels}}}",
        "tasks={segmentation: {classes: 3}}",
        "plan={}",
    )
    with pytest.raises(UsageError, match=r"expected a network that takes images of 1x2"):
        rehearse(recipe)
