"""What the user hears of several processes. What they compute is in training/test_trainer.py."""

from __future__ import annotations

import shutil
import signal
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("torch")

from edgemtl import workflow
from edgemtl.core.errors import DataError, TrainingError
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


def test_a_process_that_was_killed_is_an_error_of_training(tmp_path: Path) -> None:
    killed = partial(signal.raise_signal, signal.SIGKILL)
    with pytest.raises(TrainingError, match=r"training process 0: expected to finish, found .*SIGKILL"):
        workflow.train(tiny("training.devices=2"), tmp_path / "run", watch=killed)
