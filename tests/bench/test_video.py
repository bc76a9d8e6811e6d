from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from time import sleep

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgemtl.bench.video import bench_video, period
from edgemtl.core.bundle import ModelFile, read_manifest
from edgemtl.core.errors import UsageError
from edgemtl.core.report import VideoMeasure
from edgemtl.runtime.session import Array, FakeSession
from edgemtl.runtime.video import Keyframes
from tests.fixtures.places import TINY

MANIFEST = read_manifest(TINY)
THIRD = Fraction(1, 3)


class SlowTrunk(FakeSession):
    """A session that takes 2 ms if it holds the trunk."""

    def __init__(self, file: ModelFile) -> None:
        super().__init__(file)
        self._slow = file.name in {"trunk", "model"}

    def run(self, feeds: Mapping[str, Array], outputs: object = None) -> dict[str, Array]:
        if self._slow:
            sleep(0.002)
        return super().run(feeds)


def price(rates: dict[str, Fraction], keyframes: Keyframes | None) -> dict[str, VideoMeasure]:
    return bench_video(
        TINY,
        MANIFEST,
        rates=rates,
        keyframes=keyframes,
        batch=1,
        threads=1,
        sessions=lambda path, file, threads: SlowTrunk(file),
        warmup_ms=0,
        duration_s=0,
        repeats=24,
    )


@pytest.mark.parametrize("keyframes", [None, Keyframes(every=2)])
def test_a_moving_video_makes_the_calls_of_the_rates(keyframes: Keyframes | None) -> None:
    moving = price({"depth": THIRD, "normals": THIRD, "segmentation": Fraction(1, 2)}, keyframes)["moving"]
    heads = {name: calls for name, calls in moving.calls.items() if name.startswith("head_")}
    assert heads == pytest.approx({"head_depth": 1 / 3, "head_normals": 1 / 3, "head_segmentation": 1 / 2})
    assert moving.calls["trunk"] <= sum(heads.values())


def test_a_still_video_calls_every_file_once_between_keyframes() -> None:
    found = price({}, Keyframes(every=4, threshold=0.5))
    assert set(found) == {"moving", "still"}
    assert set(found["still"].calls.values()) == {1 / 4}
    assert set(found["moving"].calls.values()) == {1}


def test_the_worst_frame_is_the_kind_that_runs_the_dearest_files() -> None:
    still = price({}, Keyframes(every=4, threshold=0.5))["still"]
    assert still.latency_ms.count == still.full_latency_ms.count == 4 * still.worst_latency_ms.count
    assert still.worst_latency_ms.min >= 2 > still.latency_ms.p50
    assert still.worst_latency_ms.mean >= still.latency_ms.mean
    assert still.latency_ms.mean < still.full_latency_ms.mean


def test_without_keyframes_there_is_no_still_video() -> None:
    assert set(price({"depth": THIRD}, None)) == {"moving"}


def test_what_cannot_be_run_is_refused() -> None:
    merged = msgspec.structs.replace(MANIFEST, layouts={"merged": MANIFEST.layouts["merged"]})
    with pytest.raises(UsageError, match="--keyframes: expected a trunk"):
        bench_video(
            TINY,
            merged,
            rates={},
            keyframes=Keyframes(),
            batch=1,
            threads=1,
            sessions=lambda path, file, threads: FakeSession(file),
            warmup_ms=0,
            duration_s=0,
            repeats=1,
        )


@given(due=st.lists(st.booleans(), min_size=1, max_size=12).filter(any), every=st.integers(1, 30))
@example(due=[True, False, True], every=4)
def test_whatever_is_due_every_period_has_as_many_keyframes(due: list[bool], every: int) -> None:
    frames = period(tuple(frozenset(["depth"] if each else ()) for each in due), every)
    assert frames % len(due) == 0
    keyframes = [0]
    start = len(due) * (every + len(due))  # after the first few, which may not come back
    for frame in range(1, start + 4 * frames):
        if due[frame % len(due)] and frame - keyframes[-1] >= every:
            keyframes.append(frame)
    windows = [range(start + count * frames, start + (count + 1) * frames) for count in range(4)]
    assert len({sum(frame in window for frame in keyframes) for window in windows}) == 1
