from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgemtl.bench.way import Way, all_ways
from edgemtl.core.bundle import ModelFile, read_manifest
from edgemtl.runtime.session import FakeSession
from tests.fixtures.places import TINY

MANIFEST = read_manifest(TINY)
TASKS = tuple(MANIFEST.tasks)


def test_the_price_list_names_layouts_segments_and_strict_subsets() -> None:
    ways = all_ways(MANIFEST)
    assert list(ways["layouts"]) == ["merged", "split"]
    assert list(ways["segments"]) == [file.name for file in MANIFEST.layouts["split"]]
    assert list(ways["subsets"]) == [
        "segmentation",
        "depth",
        "normals",
        "segmentation+depth",
        "segmentation+normals",
        "depth+normals",
    ]
    assert {way.layout for way in ways["subsets"].values()} == {"split"}


def test_without_a_split_layout_there_are_no_segments_and_subsets_run_all() -> None:
    merged = msgspec.structs.replace(MANIFEST, layouts={"merged": MANIFEST.layouts["merged"]})
    ways = all_ways(merged)
    assert ways["segments"] == {}
    assert {way.layout for way in ways["subsets"].values()} == {"merged"}


@pytest.mark.parametrize(("count", "subsets"), [(1, 0), (2, 2), (4, 14), (5, 5)])
def test_the_number_of_subsets_stays_small(count: int, subsets: int) -> None:
    tasks = {f"task{index}": MANIFEST.tasks["depth"] for index in range(count)}
    assert len(all_ways(msgspec.structs.replace(MANIFEST, tasks=tasks))["subsets"]) == subsets


@pytest.mark.parametrize(
    "way", [way for named in all_ways(MANIFEST).values() for way in named.values()], ids=str
)
def test_a_way_runs_its_files_and_no_others(way: Way) -> None:
    sessions: dict[str, FakeSession] = {}

    def fake(path: Path, file: ModelFile, threads: int) -> FakeSession:
        assert path == TINY / file.path
        assert threads == 3
        return sessions.setdefault(file.name, FakeSession(file))

    run, feeds = way.open(TINY, MANIFEST, 3, fake), way.feeds(MANIFEST, 2)
    run(feeds)
    run(feeds)
    ran = {file.name for file in way.files(MANIFEST)}
    assert {name: len(session.runs) for name, session in sessions.items()} == {
        name: 2 * (name in ran) for name in sessions
    }
    assert ran <= set(sessions)


def test_a_file_alone_is_fed_what_it_declares() -> None:
    """Indices of a pooling are integers, and one that does not exist would crash the runtime."""
    file = MANIFEST.layouts["split"][-1]
    tensor = msgspec.structs.replace(file.inputs[0], dtype="int64")
    file = msgspec.structs.replace(file, inputs=(tensor,))
    manifest = msgspec.structs.replace(MANIFEST, layouts={"split": (file,)})

    class Indexed(FakeSession):
        def run(self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
            assert feeds[tensor.name].dtype == np.int64
            assert feeds[tensor.name].shape == (2, *tensor.shape[1:])
            assert not feeds[tensor.name].any()
            return super().run(feeds, outputs)

    way = Way("split", TASKS, file.name)
    way.open(TINY, manifest, 1, lambda path, file, threads: Indexed(file))(way.feeds(manifest, 2))
