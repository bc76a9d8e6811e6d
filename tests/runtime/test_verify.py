from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemtl.core.bundle import Manifest, ModelFile, read_manifest, sha256, write_manifest
from edgemtl.core.errors import BundleError, UsageError
from edgemtl.runtime.opening import open_session
from edgemtl.runtime.session import Array, Session, SessionFactory
from edgemtl.runtime.verify import verify
from tests.fixtures.places import TINY

MANIFEST = read_manifest(TINY)
TASKS = tuple(MANIFEST.tasks)


class Disturbed(Session):
    """A session whose outputs a function changes; it is told the name, the array and the sample's number."""

    def __init__(self, inner: Session, change: Callable[[str, Array, int], None]) -> None:
        self.inner, self.change, self.sample = inner, change, 0
        self.runtime = inner.runtime

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        written = {name: value.copy() for name, value in self.inner.run(feeds, outputs).items()}
        for name, value in written.items():
            self.change(name, value, self.sample)
        self.sample += 1
        return written


def disturbed(change: Callable[[str, Array, int], None]) -> SessionFactory:
    return lambda path, file, threads: Disturbed(open_session(path, file, threads), change)


def rewritten(folder: Path, manifest: Manifest) -> Path:
    """Write the manifest anew, with the hashes of the files as they are."""
    hashes = {name: sha256(folder / name) for name in manifest.files}
    write_manifest(folder, msgspec.structs.replace(manifest, files=hashes))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "bundle"))


def test_the_real_bundle_passes_in_every_layout() -> None:
    report = verify(TINY, threads=1)
    assert report.passed
    assert {name: tuple(tasks) for name, tasks in report.layouts.items()} == {"merged": TASKS, "split": TASKS}
    # It is no comparison with itself: the golden outputs come from another implementation.
    assert all(0 < max(d.max_abs for d in tasks.values()) < 1e-5 for tasks in report.layouts.values())
    assert tuple(verify(TINY, layout="split", threads=1).layouts) == ("split",)


@pytest.mark.parametrize("broken", [file.name for file in MANIFEST.layouts["split"]])
def test_a_fault_in_any_one_file_is_found(broken: str) -> None:
    """Also in heads that another file joins, which do not run where all tasks are asked for."""

    def change(name: str, value: Array, now: int) -> None:
        value += 1

    def open_one(path: Path, file: ModelFile, threads: int) -> Session:
        session = open_session(path, file, threads)
        return Disturbed(session, change) if file.name == broken else session

    report = verify(TINY, layout="split", threads=1, sessions=open_one)
    (file,) = (file for file in MANIFEST.layouts["split"] if file.name == broken)
    assert {task for task, found in report.layouts["split"].items() if not found.passed} == set(file.tasks)


@settings(deadline=None)  # files
@given(
    task=st.sampled_from(TASKS),
    sample=st.integers(0, 1),
    row=st.integers(0, 11),
    column=st.integers(0, 15),
    error=st.sampled_from([0.01, -3.0, np.nan, np.inf, -np.inf]),
)
def test_one_wrong_element_is_found(task: str, sample: int, row: int, column: int, error: float) -> None:
    def change(name: str, value: Array, now: int) -> None:
        if name == task and now == sample:
            value[0, 0, row, column] += error

    report = verify(TINY, layout="merged", threads=1, sessions=disturbed(change))
    assert not report.passed
    outcome = report.layouts["merged"]
    assert [name for name in TASKS if not outcome[name].passed] == [task]
    assert (outcome[task].sample, outcome[task].channel) == (sample, 0)
    assert outcome[task].pixel == (row, column)
    assert outcome[task].max_abs == pytest.approx(abs(error) if np.isfinite(error) else np.inf, abs=1e-4)


def test_the_tolerance_decides() -> None:
    def change(name: str, value: Array, now: int) -> None:
        value[:] *= 1.01

    sessions = disturbed(change)
    assert not verify(TINY, layout="merged", threads=1, sessions=sessions).passed
    assert verify(TINY, layout="merged", threads=1, rtol=0.011, sessions=sessions).passed
    assert not verify(TINY, layout="merged", threads=1, rtol=0.009, sessions=sessions).passed
    assert verify(TINY, layout="merged", threads=1, atol=10.0, rtol=0.0, sessions=sessions).passed


def test_a_task_is_judged_by_its_own_tolerance_which_the_report_states(folder: Path) -> None:
    depth = msgspec.structs.replace(MANIFEST.tasks["depth"], atol=0.25)
    rewritten(folder, msgspec.structs.replace(MANIFEST, tasks={**MANIFEST.tasks, "depth": depth}))
    report = verify(folder, layout="merged", threads=1)
    stated = {task: deviation.atol for task, deviation in report.layouts["merged"].items()}
    others = dict.fromkeys(TASKS, MANIFEST.golden.atol)
    assert stated == {**others, "depth": 0.25}
    assert report.atol == MANIFEST.golden.atol
    given = verify(folder, layout="merged", threads=1, atol=0.5)
    assert {deviation.atol for deviation in given.layouts["merged"].values()} == {given.atol} == {0.5}


@pytest.mark.parametrize("value", [-1.0, np.nan])
def test_a_tolerance_must_be_one(value: float) -> None:
    with pytest.raises(UsageError, match="atol: expected a tolerance of 0 or more"):
        verify(TINY, atol=value)
    with pytest.raises(UsageError, match="rtol"):
        verify(TINY, rtol=value)


def test_a_static_batch_need_not_divide_the_samples(folder: Path) -> None:
    batches: list[int] = []

    def record(name: str, value: Array, now: int) -> None:
        batches.append(len(value))

    info = msgspec.structs.replace(MANIFEST.input, batch=(3, 3))
    rewritten(folder, msgspec.structs.replace(MANIFEST, input=info))
    report = verify(folder, layout="merged", threads=1, sessions=disturbed(record))
    assert report.passed
    assert report.samples == 2
    assert set(batches) == {3}


@pytest.mark.parametrize(
    ("name", "arrays", "found"),
    [
        ("inputs", {"picture": np.zeros((2, 3, 12, 16), np.float32)}, "image"),
        ("inputs", {"image": np.zeros((1, 3, 12, 16), np.float32)}, "expected 2 samples of image"),
        ("outputs", {"depth": np.zeros((2, 1, 12, 16), np.float32)}, "segmentation"),
        (
            "outputs",
            {task: np.zeros((2, 7, 12, 16), np.float32) for task in TASKS},
            "expected segmentation of",
        ),
        ("outputs", dict.fromkeys(TASKS, np.array([{}, {}])), "allow_pickle"),
    ],
    ids=["missing input", "missing sample", "missing output", "other shape", "pickle"],
)
def test_golden_samples_that_do_not_fit(
    folder: Path, name: str, arrays: dict[str, Array], found: str
) -> None:
    np.savez(folder / f"golden/{name}.npz", **arrays)
    with pytest.raises(BundleError, match=found):
        verify(rewritten(folder, MANIFEST), threads=1)


def test_golden_samples_that_are_no_archive(folder: Path) -> None:
    (folder / "golden/outputs.npz").write_bytes(b"PK\x03\x04 damaged")
    with pytest.raises(BundleError, match=r"outputs\.npz"):
        verify(rewritten(folder, MANIFEST), threads=1)
