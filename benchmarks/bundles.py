"""What do bundles cost to run? One network for three tasks against three, split against merged, our runner
against a bare ONNX Runtime session.

Networks have random weights (speed does not depend on them), batch normalization that has seen data, and go
the way of every network: collapse, export. The single-task networks have the same backbone and head as the
multitask one. All rivals of a contest answer the same image in turns, in one process, one after the other on
the same number of threads. Memory is the peak of processes of their own, as `edgemtl bench` measures it.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from harness import Contest, Finding, Outcome, interleave, judge, main

from edgemtl.backbones import SegNet
from edgemtl.bench.probe import Request, probe
from edgemtl.bench.way import Way
from edgemtl.collapse import collapse
from edgemtl.core.bundle import Manifest
from edgemtl.export import Export, write_bundle
from edgemtl.model import MultitaskModel
from edgemtl.runtime.ort import onnxruntime
from edgemtl.runtime.runner import BundleRunner
from edgemtl.runtime.session import available_cores
from edgemtl.tasks import Depth, Normals, Segmentation, Task

TASKS: dict[str, Task] = {"segmentation": Segmentation(classes=13), "depth": Depth(), "normals": Normals()}


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """A network and its image: ``size`` is (height, width)."""

    name: str
    backbone: SegNet
    size: tuple[int, int]
    rounds: int
    calls: int


COMPACT = Setting(
    name="compact",
    backbone=SegNet(widths=(16, 32, 64, 64), convs=(1, 1, 2, 2)),  # that of nyuv2_compact
    size=(72, 96),
    rounds=400,
    calls=20,
)
MEDIUM = Setting(
    name="medium", backbone=SegNet(widths=(32, 64, 128, 256, 256)), size=(144, 192), rounds=60, calls=3
)
OPENINGS, PROBES = 20, 5
QUICK = (msgspec.structs.replace(COMPACT, rounds=OPENINGS),)


def measure(quick: bool) -> Outcome:
    """Time and memory of the bundles of every network."""
    settings = QUICK if quick else (COMPACT, MEDIUM)
    findings: list[Finding] = []
    raw: dict[str, object] = {}
    for setting in settings:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            bundles = write_bundles(setting, folder)
            for threads in range(1, available_cores() + 1):
                contest = latencies(setting, folder, threads)
                raw[contest.name] = {"median_ms": contest.medians_ms}
                findings += judged(contest, bundles)
            memory_mib, found = memory(setting, folder)
            raw[f"{setting.name}, memory"] = {"peak_mib": memory_mib}
            findings.append(found)
    return Outcome(
        settings={"batch": 1, "probes": PROBES, **{setting.name: setting for setting in settings}},
        findings=findings,
        raw=raw,
    )


def write_bundles(setting: Setting, folder: Path) -> dict[str, Manifest]:
    """A bundle of all tasks, ``all``, and one of each task alone, under the task's name."""
    torch.manual_seed(0)
    images = torch.rand(2, 3, *setting.size)
    manifests = {}
    for name, tasks in {"all": TASKS, **{name: {name: task} for name, task in TASKS.items()}}.items():
        model = MultitaskModel(setting.backbone.stages(), tasks)
        with torch.no_grad():
            for _ in range(3):
                model(torch.rand(4, 3, *setting.size))  # the statistics of batch normalization
        manifests[name] = write_bundle(
            collapse(model, setting.size),
            folder / name,
            name=name,
            images=images,
            spec=Export(layouts=("merged", "split") if len(tasks) > 1 else ("merged",)),
        )
    return manifests


def latencies(setting: Setting, folder: Path, threads: int) -> Contest:
    """Run every bundle in turns, and open all of them anew now and then.

    Where the memory of a session happens to lie moves its time by 2 %.
    """
    contests = [contest_of(setting, folder, threads) for _ in range(OPENINGS)]
    durations_ms = {
        rival: [ms for contest in contests for ms in contest.durations_ms[rival]]
        for rival in contests[0].durations_ms
    }
    return Contest(contests[0].name, durations_ms)


def contest_of(setting: Setting, folder: Path, threads: int) -> Contest:
    """A share of the rounds, with sessions of their own."""
    image = np.random.default_rng(0).random((1, 3, *setting.size), np.float32)
    merged, split = (
        BundleRunner(folder / "all", layout=name, threads=threads) for name in ("merged", "split")
    )
    singles = [BundleRunner(folder / task, threads=threads) for task in TASKS]
    bare_run = bare(folder / "all" / merged.files[0].path, threads)
    return interleave(
        f"{setting.name}, {threads} thread{'s' * (threads > 1)}",
        {
            "merged": lambda: merged(image),
            "split": lambda: split(image),
            "three single-task": lambda: [single(image) for single in singles],
            "bare session": lambda: bare_run({"image": image}),
        },
        rounds=setting.rounds // OPENINGS,
        calls=setting.calls,
    )


def bare(path: Path, threads: int) -> Callable[[dict[str, Any]], object]:
    """``session.run`` as it is called without edgemtl, with the options and arena of edgemtl's sessions."""
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_mem_pattern = False
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(None, feeds)


def judged(contest: Contest, bundles: Mapping[str, Manifest]) -> list[Finding]:
    """The ratios of a contest, and its gain against what multiply-accumulates predict."""
    macs = {name: manifest.layouts["merged"][0].macs for name, manifest in bundles.items()}
    predicted = sum(macs[task] for task in TASKS) / macs["all"]
    gain = contest.ratio("three single-task", "merged", at_least=1.7)
    return [
        gain,
        judge(
            f"{contest.name}: that gain / {predicted:.3f} by MACs",
            gain.value / predicted,
            at_least=0.95,
            at_most=1.05,
        ),
        contest.ratio("split", "merged", at_most=1.03),
        contest.ratio("merged", "bare session", at_most=1.02),
    ]


def memory(setting: Setting, folder: Path) -> tuple[dict[str, float], Finding]:
    """The median peak of each layout in MiB, probed in turns, and their ratio; NaN where it is unknown."""
    peaks: dict[str, list[float]] = {"merged": [], "split": []}
    for _ in range(PROBES):
        for layout, found in peaks.items():
            request = Request(str(folder / "all"), Way(layout, tuple(TASKS)), 1, available_cores())
            found.append(probe(request).memory_mib or math.nan)
    medians_mib = {layout: statistics.median(found) for layout, found in peaks.items()}
    ratio = medians_mib["split"] / medians_mib["merged"]
    return medians_mib, judge(f"{setting.name}: peak memory, split / merged", ratio, at_most=1.10)


if __name__ == "__main__":
    main(__doc__, measure)
