"""The queue of the evidence: makes every run of a grid that is not made yet, and says what remains.

    python benchmarks/evidence/runner.py run --root /data/nyuv2     # stop it whenever you like; run it again
    python benchmarks/evidence/runner.py status

A finished run is a file of results/GRID/runs/ and is never made again; a killed one goes on from its
checkpoint in the work folder. A run that diverges or breaks is recorded as failed, and the queue goes on;
delete the file to have it tried again. Data that are missing or a full disk stop the queue: they would fail
all others, too.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from execute import STOPPED, Order
from grid import TWINS, Grid, Job, outcome_of, read_grid
from records import Failed, Finished, Outcome, path_of, read_all, write

from edgemtl.core.errors import DataError, EdgemtlError, SetupError, TrainingError
from edgemtl.core.files import json_bytes, replacing
from edgemtl.runtime.session import available_cores

HERE = Path(__file__).parent
EXECUTE = HERE / "execute.py"
POLL_S = 0.2
INTERRUPTED = {-signal.SIGINT, -signal.SIGTERM, STOPPED}
BLOCKED = {DataError.exit_code, SetupError.exit_code}


class Settings(NamedTuple):
    """How this machine works a grid off. ``only``: a pattern of run names."""

    work: Path
    root: str | None
    processes: int
    only: str = "*"


class Active(NamedTuple):
    """A run that is being made."""

    job: Job
    process: subprocess.Popen[bytes]
    log: Path


class Queue:
    """Makes the runs of a grid, at most ``settings.processes`` at once."""

    def __init__(self, grid: Grid, settings: Settings) -> None:
        self.grid, self.settings = grid, settings
        self.active: list[Active] = []
        self.elsewhere: set[str] = set()

    def work_off(self) -> None:
        """Make all runs, in the grid's order.

        Raises:
            UsageError: an override of the grid is wrong. Found before anything runs.
            TrainingError: a run was stopped, or its data or the machine would fail the others, too.
        """
        self._check()
        try:
            while True:
                while len(self.active) < self.settings.processes and (job := self._next()):
                    self._start(job)
                if not self.active:
                    return
                time.sleep(POLL_S)
                for ended in [each for each in self.active if each.process.poll() is not None]:
                    self.active.remove(ended)
                    self._settle(ended)
        finally:
            for each in self.active:
                each.process.terminate()
            for each in self.active:
                each.process.wait()

    def _check(self) -> None:
        """Read the recipe of every cell."""
        by_cell = {job.cell: job for job in self._wanted({})}
        for job in by_cell.values():
            self._order(job, self.settings.work).resolved()

    def _wanted(self, outcomes: Mapping[str, Outcome]) -> list[Job]:
        return [job for job in self.grid.jobs(outcomes) if fnmatchcase(job.name, self.settings.only)]

    def _next(self) -> Job | None:
        """The first job that can run now."""
        outcomes = read_all(self.grid.name)
        finished = {name for name, outcome in outcomes.items() if isinstance(outcome, Finished)}
        busy = self.elsewhere.union(each.job.name for each in self.active)
        for job in self._wanted(outcomes):
            ready = job.tuned and finished.issuperset(job.needs) and job.name not in busy
            if ready and outcome_of(job, self.grid.recipe, outcomes) is None:
                return job
        return None

    def _start(self, job: Job) -> None:
        folder = self.grid.folder(job, self.settings.work)
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "log.txt"
        with (folder / "lock").open("w") as lock, log.open("ab") as output:
            try:
                # The process inherits the lock, so it lasts as long as that, even where this one is killed.
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.elsewhere.add(job.name)
                print(f"{job.name}: another process is at it", flush=True)
                return
            with replacing(folder / "order.json") as draft:
                draft.write_bytes(json_bytes(self._order(job, self._twins(job, folder))))
            threads = max(1, available_cores() // self.settings.processes)
            process = subprocess.Popen(
                [sys.executable, str(EXECUTE), str(folder / "order.json")],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
                pass_fds=(lock.fileno(),),
            )
        print(f"{job.name}: started", flush=True)
        self.active.append(Active(job, process, log))

    def _twins(self, job: Job, folder: Path) -> Path:
        """A folder of links to the twins that a job needs, by task."""
        runs = {
            each.name: self.grid.folder(each, self.settings.work) / "run"
            for each in self.grid.jobs(read_all(self.grid.name))
        }
        tasks = dict(zip(self.grid.twins, job.needs, strict=False))
        with replacing(folder / "twins") as draft:
            draft.mkdir()
            for task, name in tasks.items():
                (draft / task).symlink_to(runs[name])
        return folder / "twins"

    def _order(self, job: Job, twins: Path) -> Order:
        return Order(
            name=job.name,
            recipe=self.grid.recipe,
            seed=job.seed,
            overrides=job.overrides,
            given=tuple(text.replace(TWINS, str(twins)) for text in job.overrides),
            root=self.settings.root,
            split=job.split,
            processes=self.settings.processes,
            folder=str(self.grid.folder(job, self.settings.work) / "run"),
            record=str(path_of(self.grid.name, job.name).resolve()),
        )

    def _settle(self, ended: Active) -> None:
        job, code = ended.job, ended.process.returncode
        lines = ended.log.read_text(errors="replace").strip().splitlines()
        error = lines[-1] if lines else "no output"
        if code == 0:
            print(f"{job.name}: done", flush=True)
        elif code in INTERRUPTED or code in BLOCKED:
            raise TrainingError(
                job.name,
                expected="to finish",
                found="it was stopped" if code in INTERRUPTED else error,
                fix=f"Run the queue again, and it goes on from there; the log is {ended.log}.",
            )
        else:
            error = f"signal {-code} after: {error}" if code < 0 else error
            record = Failed(name=job.name, recipe=self.grid.recipe, overrides=job.overrides, error=error)
            write(path_of(self.grid.name, job.name), record)
            print(f"{job.name}: failed: {error}", flush=True)


def status(grid: Grid, processes: int) -> list[str]:
    """What is done, what failed and what remains, as lines."""
    outcomes = read_all(grid.name)
    jobs = grid.jobs(outcomes)
    found = {job.name: outcome_of(job, grid.recipe, outcomes) for job in jobs}
    open_ = [job for job in jobs if found[job.name] is None]
    stale = [job.name for job in open_ if job.tuned and job.name in outcomes]
    failed = {name: outcome.error for name, outcome in found.items() if isinstance(outcome, Failed)}
    lines = []
    for stage, title in (("select", "rate selection"), ("final", "final runs")):
        here = [job for job in jobs if job.stage == stage]
        done = sum(isinstance(found[job.name], Finished) for job in here)
        lines.append(f"{title}: {done} of {len(here)} done")
    lines += [f"failed: {name}: {error}" for name, error in failed.items()]
    lines += [f"made with other overrides, so to be made again: {name}" for name in stale]
    lines += [f"next: {', '.join(job.name for job in open_[:3])}"] if open_ else ["nothing remains"]
    remaining_s = _remaining_s(open_, jobs, found)
    if open_ and remaining_s is not None:
        lines.append(f"about {remaining_s / processes / 3600:.1f} hours remain with {processes} at once")
    return lines


def _remaining_s(open_: list[Job], jobs: list[Job], found: Mapping[str, Outcome | None]) -> float | None:
    """Training time of open runs, by the seconds an epoch of their cell took, or of the median cell."""
    epochs_s: dict[str, list[float]] = {}
    for job in jobs:
        if isinstance(outcome := found[job.name], Finished):
            epochs_s.setdefault(job.cell, []).append(outcome.cost.train_s / job.epochs)
    if not epochs_s:
        return None
    by_cell = {cell: statistics.median(values) for cell, values in epochs_s.items()}
    typical = statistics.median(by_cell.values())
    return sum(job.epochs * by_cell.get(job.cell, typical) for job in open_)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=("run", "status"))
    parser.add_argument("--grid", type=Path, default=HERE / "grids" / "cpu.yaml")
    parser.add_argument("--root", help="where the data lie: data.root")
    parser.add_argument("--work", type=Path, default=Path("/tmp/evidence"), help="checkpoints and logs")
    parser.add_argument("--processes", type=int, choices=(1, 2), default=1, help="runs at once")
    parser.add_argument("--only", default="*", help="a pattern of run names, such as '*doconv*'")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _exit)  # so that the runs at work are stopped, too
    try:
        grid = read_grid(options.grid)
        if options.verb == "run":
            Queue(
                grid, Settings(options.work.resolve(), options.root, options.processes, options.only)
            ).work_off()
        print("\n".join(status(grid, options.processes)))
    except EdgemtlError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
