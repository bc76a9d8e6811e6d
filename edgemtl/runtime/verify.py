"""Replays the golden samples of a bundle: does this device compute what the desk computed?"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from edgemtl.core.bundle import MANIFEST, Manifest, read_manifest, sha256
from edgemtl.core.errors import BundleError, UsageError
from edgemtl.core.report import Deviation, VerifyReport, timestamp
from edgemtl.runtime.opening import open_session
from edgemtl.runtime.runner import BundleRunner
from edgemtl.runtime.session import Array, SessionFactory


def verify(
    folder: Path,
    *,
    layout: str | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    threads: int | None = None,
    sessions: SessionFactory = open_session,
) -> VerifyReport:
    """Compare every task in every layout, or in the one named, with the golden outputs: all at once, and
    where other files run for a task alone, those too. The worse of the two is what the report gives.

    ``atol`` and ``rtol`` replace the manifest's tolerances, those of single tasks and of means too:
    |found - expected| <= atol + rtol * |expected|. The report says what failed; a failure raises nothing.

    Raises:
        BundleError: the bundle is damaged, or its golden samples are not what the manifest says.
        UsageError: no such layout, or a negative tolerance.
        SetupError: the runtime is missing or cannot run the files.
    """
    manifest = read_manifest(folder)
    own = {
        task: (i.atol, i.mean_atol)
        for task, i in manifest.tasks.items()
        if atol is None and i.atol is not None
    }
    atol = _tolerance("atol", manifest.golden.atol if atol is None else atol)
    rtol = _tolerance("rtol", manifest.golden.rtol if rtol is None else rtol)
    image = _load(folder, manifest.golden.inputs, [manifest.input.name], manifest)[manifest.input.name]
    golden = _load(folder, manifest.golden.outputs, list(manifest.tasks), manifest)
    layouts = {}
    for name in manifest.layouts if layout is None else (layout,):
        runner = BundleRunner(folder, layout=name, threads=threads, sessions=sessions, manifest=manifest)
        deviations = [
            (task, _deviation(folder, task, array, golden[task], *own.get(task, (atol, None)), rtol))
            for tasks in _ways(runner)
            for task, array in runner.run_all(image, tasks).items()
        ]
        layouts[name] = {
            task: max(
                (found for of, found in deviations if of == task),
                key=lambda found: (not found.passed, found.max_abs),
            )
            for task in manifest.tasks
        }
    return VerifyReport(
        bundle=manifest.name,
        manifest_sha256=sha256(folder / MANIFEST),
        created=timestamp(),
        runtime=runner.runtime,
        samples=len(image),
        atol=atol,
        rtol=rtol,
        layouts=layouts,
        passed=all(deviation.passed for tasks in layouts.values() for deviation in tasks.values()),
    )


def _ways(runner: BundleRunner) -> list[tuple[str, ...]]:
    """The tasks to ask for, until every file has run."""
    return [runner.tasks, *((task,) for file in runner.files if file.joins for task in file.tasks)]


def _deviation(
    folder: Path,
    task: str,
    found: Array,
    expected: Array,
    atol: float,
    mean_atol: float | None,
    rtol: float,
) -> Deviation:
    if found.shape != expected.shape:
        raise BundleError(
            folder,
            expected=f"{task} of shape {expected.shape}, as in its golden outputs",
            found=str(found.shape),
            fix="Export the bundle again.",
        )
    wanted = expected.astype(np.float64)
    with np.errstate(invalid="ignore"):  # inf - inf
        error = np.abs(found - wanted)
    error[np.isnan(error)] = np.inf
    excess = error - (atol + rtol * np.abs(wanted))
    worst = np.unravel_index(int(excess.argmax()), excess.shape)
    sample, channel, row, column = (int(i) for i in worst)
    magnitude, mean_abs = float(np.abs(wanted).max()), float(error.mean())
    near = mean_atol is None or mean_abs <= mean_atol + rtol * float(np.abs(wanted).mean())
    return Deviation(
        passed=bool(excess[worst] <= 0) and near,
        max_abs=float(error.max()),
        mean_abs=mean_abs,
        max_rel=float(error.max() / magnitude) if magnitude else float(error.max()),
        sample=sample,
        channel=channel,
        pixel=(row, column),
        expected=float(expected[worst]),
        found=float(found[worst]),
        atol=atol,
        mean_atol=mean_atol,
    )


def _load(folder: Path, name: str, tensors: list[str], manifest: Manifest) -> dict[str, Array]:
    """The named tensors of an npz file, each with the number of samples that the manifest states."""
    try:
        with (folder / name).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {tensor: archive[tensor] for tensor in tensors}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise _not_golden(folder / name, ", ".join(tensors), str(error)) from error
    for tensor, array in arrays.items():
        if array.ndim != 4 or len(array) != manifest.golden.samples or not array.size:
            raise _not_golden(
                folder / name, f"{manifest.golden.samples} samples of {tensor}", str(array.shape)
            )
    return arrays


def _not_golden(path: Path, expected: str, found: str) -> BundleError:
    return BundleError(path, expected=expected, found=found, fix="Export the bundle again.")


def _tolerance(name: str, value: float) -> float:
    if not value >= 0:
        raise UsageError(name, expected="a tolerance of 0 or more", found=str(value), fix="Give another.")
    return value
