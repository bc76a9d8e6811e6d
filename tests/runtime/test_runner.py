from __future__ import annotations

import shutil
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgemtl.core.bundle import ModelFile, read_manifest
from edgemtl.core.errors import BundleError, UsageError
from edgemtl.runtime.runner import BundleRunner, choose_layout
from edgemtl.runtime.session import Array, FakeSession
from tests.fixtures.places import TINY

MANIFEST = read_manifest(TINY)
TASKS = tuple(MANIFEST.tasks)
SUBSETS = list(chain.from_iterable(combinations(TASKS, size) for size in range(1, len(TASKS) + 1)))


class FakeSessions(dict[str, FakeSession]):
    """Opens FakeSessions and keeps them by the name of their file."""

    def __call__(self, path: Path, file: ModelFile, threads: int) -> FakeSession:
        self[file.name] = FakeSession(file)
        return self[file.name]


def image(batch: int = 1) -> Array:
    return np.random.default_rng(0).random((batch, 3, 12, 16), dtype=np.float32)


@pytest.mark.parametrize("layout", ["merged", "split"])
@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
@pytest.mark.parametrize("batch", [1, 4])
def test_a_subset_equals_its_part_of_the_whole(layout: str, subset: tuple[str, ...], batch: int) -> None:
    whole = BundleRunner(TINY, layout="merged", threads=1)(image(batch))
    assert tuple(whole) == TASKS
    for part in (
        BundleRunner(TINY, layout=layout, threads=1)(image(batch), subset),
        BundleRunner(TINY, layout=layout, threads=1, tasks=subset)(image(batch)),
    ):
        assert tuple(part) == subset
        for task in subset:
            np.testing.assert_allclose(part[task], whole[task], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_split_runs_each_file_that_a_subset_needs_once_and_no_other(subset: tuple[str, ...]) -> None:
    sessions = FakeSessions()
    BundleRunner(TINY, layout="split", sessions=sessions)(image(), subset)
    needed = {file.name for file in MANIFEST.layouts["split"] if set(file.tasks) & set(subset)}
    joined = {"head_depth", "head_normals"}
    needed -= joined if {"depth", "normals"} <= set(subset) else {"heads_branch_depth_normals"}
    assert {name for name, session in sessions.items() if len(session.runs) == 1} == needed
    assert all(not session.runs for name, session in sessions.items() if name not in needed)


@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_only_the_files_that_its_tasks_may_need_are_opened(subset: tuple[str, ...]) -> None:
    sessions = FakeSessions()
    runner = BundleRunner(TINY, tasks=subset, layout="split", sessions=sessions)
    assert set(sessions) == {file.name for file in runner.files}
    for tasks in chain.from_iterable(combinations(subset, size) for size in range(1, len(subset) + 1)):
        runner(image(), tasks)
    assert all(session.runs for session in sessions.values())


@pytest.mark.parametrize("batch", [(3, 3), (2, 4)])
def test_any_number_of_images_is_run_in_batches_that_the_bundle_takes(batch: tuple[int, int]) -> None:
    info = msgspec.structs.replace(MANIFEST.input, batch=batch)
    manifest = msgspec.structs.replace(MANIFEST, input=info)
    runner = BundleRunner(TINY, layout="merged", threads=1, manifest=manifest)
    singly = BundleRunner(TINY, layout="merged", threads=1)
    images = image(7)
    with pytest.raises(UsageError, match="image: expected"):
        runner(images)
    for task, found in runner.run_all(images).items():
        expected = np.concatenate([singly(images[at : at + 1])[task] for at in range(7)])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_only_tensors_that_somebody_reads_are_fetched() -> None:
    sessions = FakeSessions()
    runner = BundleRunner(TINY, layout="split", sessions=sessions)
    runner(image(), ("depth",))
    runner(image())
    assert sessions["trunk"].runs == [("trunk.high",), ("trunk.low", "trunk.high")]


def test_merged_fetches_only_what_is_asked() -> None:
    sessions = FakeSessions()
    BundleRunner(TINY, layout="merged", sessions=sessions)(image(), ("normals",))
    assert sessions["model"].runs == [("normals",)]


def test_only_what_lies_between_the_tensors_at_hand_and_those_wanted_is_run() -> None:
    sessions = FakeSessions()
    runner = BundleRunner(TINY, layout="split", sessions=sessions)
    (high,) = runner.compute({"image": image()}, ("trunk.high",)).values()
    (depth,) = runner.compute({"image": image(), "trunk.high": high}, ("depth",)).values()
    np.testing.assert_array_equal(depth, runner(image())["depth"])
    assert {name: len(session.runs) for name, session in sessions.items()} == {
        "trunk": 2,
        "branch_segmentation": 1,
        "branch_depth_normals": 2,
        "head_segmentation": 1,
        "head_depth": 1,
        "head_normals": 0,
        "heads_branch_depth_normals": 1,
    }


@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_the_price_of_a_subset_is_that_of_the_files_that_it_runs(subset: tuple[str, ...]) -> None:
    sessions = FakeSessions()
    runner = BundleRunner(TINY, layout="split", sessions=sessions)
    runner(image(), subset)
    ran = [file.macs for file in runner.files if sessions[file.name].runs]
    assert runner.macs(subset) == sum(ran)
    assert runner.macs(()) == 0


def test_tensors_are_freed_after_their_last_reader() -> None:
    references: dict[str, weakref.ref[Array]] = {}
    alive: dict[str, set[str]] = {}

    class Watched(FakeSession):
        def __init__(self, file: ModelFile) -> None:
            super().__init__(file)
            self.name = file.name

        def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
            alive[self.name] = {name for name, reference in references.items() if reference() is not None}
            written = super().run(feeds, outputs)
            references.update({name: weakref.ref(value) for name, value in written.items()})
            return written

    files = tuple(file for file in MANIFEST.layouts["split"] if not file.joins)
    runner = BundleRunner(
        TINY,
        layout="split",
        sessions=lambda path, file, threads: Watched(file),
        manifest=msgspec.structs.replace(MANIFEST, layouts={"split": files}),
    )
    runner(image())
    assert alive["branch_depth_normals"] == {"trunk.high", "branch_segmentation.out"}
    assert alive["head_depth"] == {"branch_depth_normals.out", "segmentation"}
    assert alive["head_normals"] == {"branch_depth_normals.out", "segmentation", "depth"}


def test_the_default_layout_wastes_least() -> None:
    merged_only = msgspec.structs.replace(MANIFEST, layouts={"merged": MANIFEST.layouts["merged"]})
    split_only = msgspec.structs.replace(MANIFEST, layouts={"split": MANIFEST.layouts["split"]})
    assert choose_layout(MANIFEST, TASKS) == choose_layout(MANIFEST, TASKS[::-1]) == "merged"
    assert choose_layout(MANIFEST, TASKS[:2]) == "split"
    assert choose_layout(merged_only, TASKS[:2]) == "merged"
    assert choose_layout(split_only, TASKS) == "split"
    assert choose_layout(MANIFEST, TASKS[:2], "merged") == "merged"


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (image().astype(np.float64), "float64 1x3x12x16"),
        (image()[:, :, :, ::2], "float32 1x3x12x8"),
        (image().transpose(0, 2, 3, 1), "float32 1x12x16x3"),
        (image()[0], "float32 3x12x16"),
        (image(5), "float32 5x3x12x16"),
        (image()[:0], "float32 0x3x12x16"),
        (np.array(0, np.float32), "float32 "),
        (image().tolist(), "a list"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_image_that_the_bundle_does_not_take(wrong: Array, found: str) -> None:
    runner = BundleRunner(TINY, sessions=FakeSessions())
    with pytest.raises(UsageError) as caught:
        runner(wrong)
    assert caught.value.expected == "a float32 array 1..4x3x12x16"
    assert caught.value.found == found


def test_an_image_that_is_not_contiguous_is_fine() -> None:
    runner, flipped = BundleRunner(TINY, threads=1), image()[..., ::-1]
    for task, value in runner(np.ascontiguousarray(flipped)).items():
        np.testing.assert_array_equal(runner(flipped)[task], value)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"`dept`.*`depth`"):
        BundleRunner(TINY, tasks=["dept"])
    with pytest.raises(UsageError, match="found none"):
        BundleRunner(TINY, tasks=[])
    with pytest.raises(UsageError, match=r"`splt`.*`split`"):
        BundleRunner(TINY, layout="splt")
    runner = BundleRunner(TINY, tasks=["depth"], sessions=FakeSessions())
    with pytest.raises(UsageError, match=r"`normals`.*depth"):
        runner(image(), ["normals"])
    with pytest.raises(UsageError, match="found none"):
        runner(image(), [])


def test_a_changed_file_is_never_opened(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(TINY, tmp_path / "bundle"))
    (folder / "trunk.onnx").write_bytes((folder / "trunk.onnx").read_bytes() + b"\0")
    sessions = FakeSessions()
    with pytest.raises(BundleError, match=r"trunk\.onnx.*SHA-256"):
        BundleRunner(folder, sessions=sessions)
    assert not sessions


def test_importing_the_runtime_is_light() -> None:
    heavy = {"torch", "onnx", "onnxruntime", "PIL", "rich", "typer"}
    code = f"import sys, edgemtl.runtime.runner, edgemtl.runtime.verify; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("images", [np.zeros((0, 3, 12, 16), np.float32), [], np.zeros((), np.float32)])
def test_no_images_are_refused_in_one_line(images: Any) -> None:
    with pytest.raises(UsageError, match="expected a float32 array"):
        BundleRunner(TINY).run_all(images)
