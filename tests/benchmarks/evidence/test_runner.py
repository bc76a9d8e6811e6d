from __future__ import annotations

import fcntl
from pathlib import Path
from textwrap import dedent

import pytest

torch = pytest.importorskip("torch")
from execute import trained
from grid import Grid
from records import Failed, Finished, read_all
from runner import Queue, Settings, status

from edgemtl import workflow
from edgemtl.core.errors import TrainingError, UsageError
from edgemtl.core.report import Progress
from edgemtl.tensors import read_tensors
from tests.benchmarks.evidence.made_up import failed, finished, made_up, record, scores, tuned
from tests.tiny import tiny

SCORES = scores(1.0, 0.5)
LAST = "weights/last.safetensors"


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of execute.py: notes that it was started, and does what the file that is returned says."""
    script, behavior = tmp_path / "execute.py", tmp_path / "behavior.py"
    script.write_text(
        dedent(f"""\
        import json, os, pathlib, signal, sys
        order = json.loads(pathlib.Path(sys.argv[1]).read_text())
        with open({str(tmp_path / "started")!r}, "a") as file:
            file.write(order["name"] + chr(10))
        exec(pathlib.Path({str(behavior)!r}).read_text())
        """)
    )
    monkeypatch.setattr("runner.EXECUTE", script)
    return behavior


def queue(grid: Grid, tmp_path: Path, processes: int = 1, only: str = "*") -> Queue:
    return Queue(grid, Settings(tmp_path / "work", None, processes, only))


def started(tmp_path: Path) -> list[str]:
    return (tmp_path / "started").read_text().split()


def test_a_queue_of_real_runs(results: Path, tmp_path: Path) -> None:
    grid = tuned(
        balancing={"equal": [], "infinite": ["balancing={type: fixed, weights: {depth: 1e39}}"]},
        rounds=[{"cells": ["factorized-*"], "seeds": [3]}],
    )
    queue(grid, tmp_path, processes=2).work_off()
    good, broken = read_all(grid.name).values()
    assert isinstance(good, Finished)
    assert (good.name, good.seed, good.split, good.images) == ("factorized-equal-s3", 3, "val", 4)
    assert set(good.scores) == set(good.metrics) == {"segmentation", "depth", "normals"}
    assert good.worst["fp32"] < 1e-5
    trained_, deployed = good.cost.parameters
    assert trained_ > deployed > 0
    assert good.cost.step_ms > 0
    assert good.cost.peak_rss_mib > 50
    assert isinstance(broken, Failed)
    assert "a finite loss" in broken.error


def test_a_finished_or_failed_run_is_not_made_again(results: Path, tmp_path: Path, stand_in: Path) -> None:
    grid = tuned(rounds=[{"cells": ["plain-equal"], "seeds": [0, 1, 2]}])
    first, second, third = grid.jobs({})
    record(grid, finished(first, grid, SCORES))
    record(grid, failed(second, grid))
    stand_in.write_text("sys.exit('nothing works')")
    for _ in range(2):
        queue(grid, tmp_path).work_off()
    assert started(tmp_path) == [third.name]
    outcome = read_all(grid.name)[third.name]
    assert isinstance(outcome, Failed)
    assert outcome.error == "nothing works"


def test_a_crash_is_a_failure(results: Path, tmp_path: Path, stand_in: Path) -> None:
    grid = tuned(rounds=[{"cells": ["plain-equal"], "seeds": [0, 1]}])
    stand_in.write_text("print('malloc', flush=True); os.kill(os.getpid(), signal.SIGKILL)")
    queue(grid, tmp_path, processes=2).work_off()
    outcomes = read_all(grid.name)
    assert len(outcomes) == 2
    assert all(isinstance(o, Failed) and "signal 9 after: malloc" in o.error for o in outcomes.values())


@pytest.mark.parametrize(
    "behavior",
    ["sys.exit(4)", "sys.exit(5)", "os.kill(os.getpid(), signal.SIGTERM)"],
    ids=["setup", "data", "stop"],
)
def test_what_would_fail_every_run_stops_the_queue(
    results: Path, tmp_path: Path, stand_in: Path, behavior: str
) -> None:
    grid = tuned(rounds=[{"cells": ["plain-equal"], "seeds": [0, 1]}])
    stand_in.write_text(behavior)
    with pytest.raises(TrainingError, match="plain-equal-s0"):
        queue(grid, tmp_path).work_off()
    assert started(tmp_path) == ["plain-equal-s0"]
    assert not read_all(grid.name)


def test_a_run_that_another_process_makes_is_left_to_it(
    results: Path, tmp_path: Path, stand_in: Path
) -> None:
    grid = tuned(rounds=[{"cells": ["plain-equal"], "seeds": [0, 1]}])
    folder = grid.folder(grid.jobs({})[0], tmp_path / "work")
    folder.mkdir(parents=True)
    stand_in.write_text("sys.exit('over')")
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        queue(grid, tmp_path).work_off()
    assert started(tmp_path) == ["plain-equal-s1"]


def test_stopping_the_queue_stops_its_runs(
    results: Path, tmp_path: Path, stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = tuned(rounds=[{"cells": ["plain-equal"], "seeds": [0]}])
    stand_in.write_text("import time; time.sleep(60)")
    stopped = queue(grid, tmp_path)
    processes = []

    def interrupt(seconds: float) -> None:
        processes.extend(each.process for each in stopped.active)
        raise KeyboardInterrupt

    monkeypatch.setattr("runner.time.sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        stopped.work_off()
    assert [process.poll() for process in processes] == [-15]
    assert not read_all(grid.name)


def test_twins_are_handed_to_the_run_that_needs_them(results: Path, tmp_path: Path, stand_in: Path) -> None:
    grid = tuned(
        extras={"taught": {"like": "plain-equal", "overrides": ["backbone.weights=${twins}"]}},
        rounds=[{"cells": ["taught", "twin_*"], "seeds": [0]}],
    )
    jobs = {job.name: job for job in grid.jobs({})}
    twins = {task: jobs[f"twin_{task}-s0"] for task in grid.twins}
    record(grid, finished(twins["depth"], grid, SCORES))
    stand_in.write_text("sys.exit('over')")
    queue(grid, tmp_path).work_off()
    assert started(tmp_path) == ["twin_segmentation-s0"], "a twin that failed teaches nobody"
    record(grid, finished(twins["segmentation"], grid, SCORES))
    stand_in.write_text("sys.exit(' '.join(order['given']))")
    queue(grid, tmp_path).work_off()
    outcome = read_all(grid.name)["taught-s0"]
    assert isinstance(outcome, Failed)
    given = dict(text.split("=", 1) for text in outcome.error.split(" ") if text.startswith("backbone.w"))
    for task, job in twins.items():
        assert (Path(given["backbone.weights"]) / task).readlink() == grid.folder(
            job, tmp_path / "work"
        ) / "run"
    assert "backbone.weights=${twins}" in outcome.overrides


def test_a_wrong_override_is_found_before_anything_runs(
    results: Path, tmp_path: Path, stand_in: Path
) -> None:
    grid = tuned(methods={"plain": {"overrides": ["kernel=plane"]}})
    with pytest.raises(UsageError, match="plain"):
        queue(grid, tmp_path).work_off()
    assert not (tmp_path / "started").exists()


def test_a_killed_run_goes_on_to_the_weights_it_would_have_had(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill(progress: Progress) -> None:
        if progress.step == 6:  # of 3 epochs of 4 steps
            raise Killed

    class Watched:
        def __enter__(self) -> object:
            return kill

        def __exit__(self, *error: object) -> None: ...

    recipe = tiny()
    with pytest.raises(Killed):
        workflow.train(recipe, tmp_path / "killed", observe=Watched)
    run = trained(recipe, tmp_path / "killed")
    assert [entry["epoch"] for entry in run.metrics] == [1, 2, 3]
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "env.json").write_text("{")  # killed before its first checkpoint
    whole = trained(recipe, tmp_path / "begun")
    found, expected = read_tensors(run.path / LAST), read_tensors(whole.path / LAST)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_status_says_what_is_done_and_what_remains(results: Path) -> None:
    grid = made_up(rounds=[{"cells": ["plain-equal"], "seeds": [0, 1]}])
    assert status(grid, 1) == [
        "rate selection: 0 of 2 done",
        "final runs: 0 of 2 done",
        "next: select-plain-equal-lr0.003, select-plain-equal-lr0.01, plain-equal-s0",
    ]
    slow, fast = [job for job in grid.jobs({}) if job.stage == "select"]
    record(grid, finished(slow, grid, SCORES))
    record(grid, failed(fast, grid))
    lines = status(grid, 2)
    assert "rate selection: 1 of 2 done" in lines
    assert "failed: select-plain-equal-lr0.01: a loss is not finite" in lines
    # 2 runs of 2 epochs, of which one took 100 s, two at once
    assert f"about {200 / 3600:.1f} hours remain with 2 at once" in lines
    stale = made_up(epochs=5, rounds=[{"cells": ["plain-equal"], "seeds": [0]}])
    final = next(job for job in grid.jobs(read_all(grid.name)) if job.name == "plain-equal-s0")
    record(grid, finished(final, grid, SCORES))
    assert "made with other overrides, so to be made again: plain-equal-s0" in status(stale, 1)
