"""What can be measured only once in a process: loading, the first inference, and peak memory.

Each probe is a subprocess of its own (``python -m edgemtl.bench.probe``): a request on stdin, the answer on
stdout.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from time import perf_counter_ns

import msgspec

from edgemtl.bench.way import Way
from edgemtl.core.bundle import read_manifest
from edgemtl.core.errors import SetupError
from edgemtl.runtime.opening import load_runtime, open_session

_CHILD = """
import sys
sys.path = [entry for entry in sys.path if entry]
from edgemtl.bench.probe import main
main()
"""
RUNS = 5  # memory is at its peak after a few


class Request(msgspec.Struct, frozen=True):
    """What a probe runs, and how."""

    folder: str
    way: Way
    batch: int
    threads: int


class Probe(msgspec.Struct, frozen=True):
    """What a probe found. ``load_ms`` includes checking the hashes of the bundle, not importing the runtime.

    ``memory_mib`` is the peak of the resident set since the runtime was imported and the input made; None
    where unknown, as with a runtime that computes on a GPU.
    """

    load_ms: float
    first_inference_ms: float
    memory_mib: float | None


def probe(request: Request) -> Probe:
    """Load and run in a process of its own.

    Raises:
        SetupError: the process failed, for example for want of memory.
    """
    # The child must import the same edgemtl, also where that stands on sys.path by the caller's doing, and
    # not one in the current folder, which comes first with -m, and as an empty entry with -c.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", _CHILD],
        input=msgspec.json.encode(request),
        capture_output=True,
        env=environment,
    )
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise SetupError(
            f"bench of {', '.join(request.way.tasks)}",
            expected="a process that loads and runs the bundle",
            found=last or f"exit code {done.returncode}",
            fix="Is there enough memory? Try a smaller batch.",
        )
    return msgspec.json.decode(done.stdout, type=Probe)


def run_probe(request: Request) -> Probe:
    """What the subprocess does."""
    folder, way = Path(request.folder), request.way
    # Before anything is measured: making it imports numpy.random, for 15 ms and 3 MiB.
    feeds = way.feeds(read_manifest(folder), request.batch)
    runtime = load_runtime()
    before_mib = _reset_peak_mib()
    start = perf_counter_ns()
    run = way.open(folder, read_manifest(folder), request.threads, open_session)
    loaded = perf_counter_ns()
    run(feeds)
    first = perf_counter_ns()
    for _ in range(RUNS):
        run(feeds)
    peak_mib = _status_mib("VmHWM")
    memory_mib = None
    if runtime.resident and before_mib is not None and peak_mib is not None:
        memory_mib = peak_mib - before_mib
    return Probe((loaded - start) / 1e6, (first - loaded) / 1e6, memory_mib)


def _reset_peak_mib() -> float | None:
    """Make the peak start from now, and say where it stands. None where the system lacks this (not Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status_mib("VmRSS")


def _status_mib(field: str) -> float | None:
    """A field of /proc/self/status. ``ru_maxrss`` would not do: it survives exec, so it counts the parent."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:")), None)


def main() -> None:
    """A request on stdin, a probe on stdout."""
    answer = run_probe(msgspec.json.decode(sys.stdin.buffer.read(), type=Request))
    sys.stdout.buffer.write(msgspec.json.encode(answer))
