"""A tiny run's bundle over rendered videos."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from edgemtl.core.errors import DataError, UsageError
from edgemtl.evaluation import evaluate
from edgemtl.runtime.video import Keyframes

FRAMES = 2 * 6  # of the videos in the tiny recipe


@pytest.fixture(scope="module")
def bundle(typed_chain: Path) -> Path:
    return typed_chain / "runs/tiny/bundles/onnx-fp32"


def test_at_full_rate_nothing_is_lost_and_nothing_is_old(bundle: Path) -> None:
    report = evaluate(bundle, split="video", rates=["depth=1"])
    plain = evaluate(bundle, split="video")
    for task, table in report.tasks.items():
        assert table == pytest.approx(plain.tasks[task], rel=1e-4)
    assert report.video is not None
    assert set(report.video.age_frames.values()) == {0}
    assert set(report.video.calls.values()) == {1}
    assert report.delta_m in (None, 0)  # none where a metric of so small a network is 0


def test_each_video_begins_anew_and_ages_and_calls_are_counted(bundle: Path) -> None:
    report = evaluate(bundle, split="video", rates=["depth=1/3"])
    assert report.images == FRAMES
    assert report.video is not None
    assert report.video.rates == {"segmentation": "1", "depth": "1/3", "normals": "1"}
    assert report.video.age_frames["segmentation"] == 0
    # Computed on the first frame of each video, and on two more of its six; a turn may fall on the first.
    assert report.video.calls["head_depth"] in (2 * 2 / FRAMES, 2 * 3 / FRAMES)
    assert 0 < report.video.age_frames["depth"] <= 1
    plain = evaluate(bundle, split="video")
    assert report.tasks["depth"] != plain.tasks["depth"]
    assert report.tasks["normals"] == pytest.approx(plain.tasks["normals"], rel=1e-4)


def test_keyframes_that_nothing_but_time_renews(bundle: Path) -> None:
    report = evaluate(bundle, split="video", keyframes=Keyframes(every=3, threshold=1))
    assert report.video is not None
    assert report.video.keyframes == "every=3,threshold=1"
    assert report.video.calls["trunk"] == pytest.approx(1 / 3)
    assert set(report.video.age_frames.values()) == {1}


def test_what_has_no_frames_or_no_files_is_refused(bundle: Path) -> None:
    with pytest.raises(DataError, match=r"--split val: expected videos.*--split video"):
        evaluate(bundle, rates=["depth=1/3"])
    with pytest.raises(UsageError, match=r"`dept`.*`depth`"):
        evaluate(bundle, split="video", rates=["dept=1/3"])
    with pytest.raises(DataError, match="expected a bundle"):
        evaluate(bundle.parents[1], split="video", rates=["depth=1/3"])
