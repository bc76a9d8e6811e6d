from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import safetensors.torch

from edgemtl import workflow
from edgemtl.core.errors import DataError, EdgemtlError, SetupError, TrainingError
from edgemtl.data import Scenes
from edgemtl.run import Run
from edgemtl.training import trainer
from edgemtl.training.trainer import Trainer
from tests.tiny import as_yaml, tiny
from tests.training.stopping import StopError, stop_at

Weights = dict[str, torch.Tensor]
SLOW = {"data": {"type": "scenes", "size": [16, 24], "train": 64, "val": 4}}


def weights(run: Path) -> Weights:
    return safetensors.torch.load_file(run / "weights" / "last.safetensors")


def same(a: Weights, b: Weights) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[key]) for key, value in a.items())


@pytest.mark.parametrize("update", ["joint", "routed", "alternating"])
@pytest.mark.parametrize(
    "extra",
    [
        ["training.optimizer.type=adam", "training.ema=0.9", "training.schedule.warmup_steps=3"],
        ["training.optimizer.type=sgd", "training.clip_norm=1.0", "training.schedule=poly"],
        ["training.precision=bf16", "training.optimizer.type=adamw", "training.schedule=step"],
    ],
    ids=["adam-ema", "sgd-clip", "adamw-bf16"],
)
def test_a_run_that_is_stopped_anywhere_and_resumed_ends_with_the_same_weights(
    update: str, extra: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny(f"training.update={update}", *extra)
    whole = workflow.train(recipe, tmp_path / "whole")
    # Step 7 is in the middle of the second epoch; the checkpoint is two steps older.
    with monkeypatch.context() as patch, pytest.raises(StopError):
        stop_at(7, patch, save_every=5)
        workflow.train(recipe, tmp_path / "parts")
    resumed = workflow.resume(tmp_path / "parts")
    assert same(weights(whole.path), weights(resumed.path))
    untimed = [
        [
            {k: v for k, v in json.loads(line).items() if k not in ("elapsed_s", "wait_share")}
            for line in lines
        ]
        for lines in ((run.path / "metrics.jsonl").read_text().splitlines() for run in (whole, resumed))
    ]
    assert untimed[0] == untimed[1]
    assert len(untimed[0]) == 3


@pytest.mark.parametrize(
    "settings",
    [
        ["balancing=uncertainty"],
        ["balancing={type: dwa, temperature: 0.1}"],
        ["balancing=dwa", "training.update=routed", "training.aggregation=pcgrad"],
        ["balancing=uncertainty", "training.update=routed", "training.aggregation=aligned"],
    ],
    ids=["uncertainty", "dwa", "dwa-pcgrad", "uncertainty-aligned"],
)
def test_what_balances_the_tasks_is_resumed_as_it_was(
    settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny(*settings)
    whole = workflow.train(recipe, tmp_path / "whole")
    # In the middle of the third epoch, the first in which two have ended.
    with monkeypatch.context() as patch, pytest.raises(StopError):
        stop_at(11, patch, save_every=9)
        workflow.train(recipe, tmp_path / "parts")
    resumed = workflow.resume(tmp_path / "parts")
    assert same(weights(whole.path), weights(resumed.path))
    states = [torch.load(run.path / "state.pt", weights_only=True)["balancer"] for run in (whole, resumed)]
    assert same(*states)
    fresh = recipe.balancing.build(tuple(recipe.tasks)).state_dict()
    assert not any(torch.equal(states[0][key], value) for key, value in fresh.items())


def test_a_process_that_is_killed_for_real_resumes_to_the_same_weights(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(as_yaml(**SLOW))
    settings = ["training.checkpoint_every_s=0.01", "training.workers=1"]
    train = [sys.executable, "-m", "edgemtl", "train"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [*train, str(recipe), *settings, "--out", str(killed)], stderr=subprocess.DEVNULL, env=environment
    )
    deadline = time.monotonic() + 120
    while not (killed / "state.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (killed / "state.pt").exists()
    assert not (killed / "summary.json").exists(), "it was done before it could be killed"
    subprocess.run([*train, str(killed), "--resume"], check=True, capture_output=True, env=environment)
    whole = tmp_path / "whole"
    subprocess.run(
        [*train, str(recipe), *settings, "--out", str(whole)],
        check=True,
        capture_output=True,
        env=environment,
    )
    assert same(weights(killed), weights(whole))


@pytest.mark.parametrize(
    "balancing",
    [
        [],
        ["balancing=dwa", "training.epochs=3", "training.update=routed", "training.aggregation=aligned"],
    ],
    ids=["joint", "dwa-aligned"],
)
def test_two_processes_train_to_what_one_does_with_the_same_global_batch(
    balancing: list[str], tmp_path: Path
) -> None:
    # SGD: Adam divides by the size of gradients, and so makes much of rounding where they are close to 0.
    settings = ["training.optimizer.type=sgd", "training.epochs=2", "training.clip_norm=5.0", *balancing]
    one = workflow.train(tiny(*settings), tmp_path / "one")
    two = workflow.train(tiny(*settings, "training.devices=2"), tmp_path / "two")
    for key, value in weights(one.path).items():
        torch.testing.assert_close(weights(two.path)[key], value, rtol=1e-3, atol=1e-4, msg=key)
    scores = [json.loads((run.path / "summary.json").read_text())["tasks"] for run in (one, two)]
    assert scores[1]["depth"]["abs"] == pytest.approx(scores[0]["depth"]["abs"], rel=1e-3)


def test_a_loss_that_is_not_finite_names_task_step_and_batch_and_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    render = Scenes.dataset

    def poisoned(self: Scenes, split: str) -> object:
        dataset = render(self, split)
        read = type(dataset).__getitem__

        class Poisoned(type(dataset)):  # type: ignore[misc]
            def __getitem__(self, index: int) -> object:
                sample = read(self, index)
                if split == "train" and index == 3:
                    sample.labels["depth"][:] = math.inf
                return sample

        dataset.__class__ = Poisoned
        return dataset

    monkeypatch.setattr(Scenes, "dataset", poisoned)
    with monkeypatch.context() as patch, pytest.raises(TrainingError) as caught:
        learn = Trainer._learn
        patch.setattr(Trainer, "_learn", lambda self, batch: (self.save(), learn(self, batch))[1])
        workflow.train(tiny(), tmp_path / "run")
    message = str(caught.value)
    assert "task depth" in message
    assert "train/3" in message
    assert "step " in message
    assert all(v.isfinite().all() for v in weights(tmp_path / "run").values())


def test_weights_that_a_step_spoiled_are_never_saved(tmp_path: Path) -> None:
    """The loss of a step is of the weights before it: nothing else has looked at the new ones yet."""
    run = workflow.train(tiny("training.epochs=1"), tmp_path / "run")
    files = ["state.pt", "metrics.jsonl", "weights/last.safetensors"]
    before = [(run.path / name).read_bytes() for name in files]
    recipe = (run.path / "recipe.yaml").read_text()
    recipe = recipe.replace("epochs: 1", "epochs: 2").replace("lr: 0.01", "lr: 1.0e+30")
    # Save after every step.
    recipe = recipe.replace("checkpoint_every_s: 60.0", "checkpoint_every_s: 1.0e-09")
    (run.path / "recipe.yaml").write_text(recipe)
    with pytest.raises(TrainingError, match=r"step 5, after its update: .*last good checkpoint"):
        workflow.resume(run.path)
    assert [(run.path / name).read_bytes() for name in files] == before


def test_the_first_step_may_be_the_one_that_diverges(tmp_path: Path) -> None:
    """A step an epoch: the loss of the only step is finite, that of the validation is not."""
    recipe = tiny("training.optimizer={type: sgd, lr: 1.0e+30}", "training.batch=16", "training.epochs=1")
    with pytest.raises(TrainingError, match=r"step 1, validation: .*none was saved"):
        workflow.train(recipe, tmp_path / "run")
    assert not list(tmp_path.rglob("state.pt"))
    assert not list(tmp_path.rglob("last.safetensors"))
    assert not (tmp_path / "run" / "metrics.jsonl").read_text()


@pytest.mark.parametrize("dies", ["write_tensors", "Checkpoint"])
def test_a_run_that_dies_within_its_last_save_is_resumed_to_the_same_weights(
    dies: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = workflow.train(tiny(), tmp_path / "whole")
    save = Trainer.save

    def die(*args: object, **named: object) -> None:
        raise StopError

    with monkeypatch.context() as patch, pytest.raises(StopError):

        def last_save(self: Trainer) -> None:
            if self.step == self.steps:
                patch.setattr(trainer, dies, die)
            save(self)

        patch.setattr(Trainer, "save", last_save)
        workflow.train(tiny(), tmp_path / "parts")
    resumed = workflow.resume(tmp_path / "parts")
    assert same(weights(whole.path), weights(resumed.path))


def test_a_full_disk_is_named_and_the_last_checkpoint_stays(tmp_path: Path) -> None:
    """A real limit on the size of files: the first file of a checkpoint is cut off while it is written."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(as_yaml())
    run = tmp_path / "run"
    workflow.train(tiny("training.epochs=1"), run)
    files = [run / "state.pt", run / "weights" / "last.safetensors"]
    before = [path.read_bytes() for path in files]
    (run / "recipe.yaml").write_text((run / "recipe.yaml").read_text().replace("epochs: 1", "epochs: 2"))
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
        "from edgemtl.cli import main; sys.argv[1:] = ['train', '--resume', sys.argv[1]]; main()"
    )
    found = subprocess.run([sys.executable, "-c", limited, str(run)], capture_output=True, text=True)
    assert found.returncode == SetupError.exit_code, found.stderr
    assert "last.safetensors" in found.stderr
    assert "Free disk space" in found.stderr
    assert [path.read_bytes() for path in files] == before
    assert not list(run.rglob("*.part"))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None], ids=["empty", "garbage", "none"])
def test_resuming_without_a_sound_checkpoint_is_refused(content: bytes | None, tmp_path: Path) -> None:
    run = workflow.train(tiny("training.epochs=1"), tmp_path / "run")
    if content is None:
        (run.path / "state.pt").unlink()
    else:
        (run.path / "state.pt").write_bytes(content)
    with pytest.raises(DataError, match=r"state\.pt"):
        workflow.resume(run.path)


def test_resuming_with_another_network_is_refused(tmp_path: Path) -> None:
    run = workflow.train(tiny("training.epochs=1"), tmp_path / "run")
    recipe = run.path / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("- 6\n", "- 8\n"))
    with pytest.raises(DataError, match="state of the model"):
        workflow.resume(run.path)


def test_resuming_with_another_optimizer_is_refused(tmp_path: Path) -> None:
    run = workflow.train(tiny("training.epochs=1", "training.optimizer=muon"), tmp_path / "run")
    recipe = run.path / "recipe.yaml"
    recipe.write_text(
        recipe.read_text().replace("type: muon", "type: adamw").replace("    momentum: 0.95\n", "")
    )
    with pytest.raises(DataError, match="state of the model"):
        workflow.resume(run.path)


def test_the_best_weights_are_kept_only_where_a_split_is_held_out(nyuv2_root: Path, tmp_path: Path) -> None:
    settings = [f"data={{type: nyuv2, root: {nyuv2_root}, holdout: 2}}", "training.batch=2"]
    held = workflow.train(tiny(*settings), tmp_path / "held")
    assert (held.path / "weights" / "best.safetensors").exists()
    plain = workflow.train(tiny(*settings, "data.holdout=0"), tmp_path / "plain")
    assert not (plain.path / "weights" / "best.safetensors").exists()
    with pytest.raises(DataError, match=r"best\.safetensors"):
        plain.trained("best")


def test_the_weights_that_are_saved_are_the_averaged_ones(tmp_path: Path) -> None:
    run = workflow.train(tiny("training.ema=0.99"), tmp_path / "run")
    state = torch.load(run.path / "state.pt", weights_only=True)
    assert same(weights(run.path), state["average"])
    assert not same(weights(run.path), state["model"])


def test_fp16_trains_with_a_loss_scale(tmp_path: Path) -> None:
    run = workflow.train(tiny("training.precision=fp16", "training.epochs=1"), tmp_path / "run")
    assert torch.load(run.path / "state.pt", weights_only=True)["scaler"]["scale"] > 1
    assert all(value.isfinite().all() for value in weights(run.path).values())


def test_a_run_of_another_version_is_refused(tmp_path: Path) -> None:
    run = workflow.train(tiny("training.epochs=1"), tmp_path / "run")
    env = run.path / "env.json"
    env.write_text(env.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(EdgemtlError, match="format 99"):
        Run.open(run.path)
