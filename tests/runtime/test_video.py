from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemtl.core.bundle import Manifest, ModelFile, read_manifest
from edgemtl.core.errors import UsageError
from edgemtl.runtime.runner import BundleRunner
from edgemtl.runtime.session import Array, FakeSession
from edgemtl.runtime.video import Keyframes, VideoRunner, parse_keyframes
from tests.fixtures.places import TINY

MANIFEST = read_manifest(TINY)
TASKS = tuple(MANIFEST.tasks)
RATES = st.fixed_dictionaries(
    {task: st.sampled_from([Fraction(1), Fraction(1, 2), Fraction(1, 3), Fraction(3, 4)]) for task in TASKS}
)
KEYFRAMES = st.builds(Keyframes, every=st.integers(1, 5), threshold=st.sampled_from([0, 0.02, 0.2, 1]))
LEVELS = st.lists(st.sampled_from([0.1, 0.11, 0.2, 0.9]), min_size=1, max_size=12)  # brightness by frame


class FakeBundle:
    """A runner of the tiny bundle's split layout over FakeSessions, which are kept by file."""

    def __init__(self, tasks: Sequence[str] = TASKS, manifest: Manifest = MANIFEST) -> None:
        self.sessions: dict[str, FakeSession] = {}
        self.runner = BundleRunner(TINY, tasks=tasks, layout="split", sessions=self._open, manifest=manifest)

    def _open(self, path: Path, file: ModelFile, threads: int) -> FakeSession:
        return self.sessions.setdefault(file.name, FakeSession(file))

    def runs(self) -> dict[str, int]:
        """How often each part ran, by itself or within a file that joins it."""
        runs = {name: len(session.runs) for name, session in self.sessions.items()}
        for file in self.runner.files:
            for name in file.joins:
                runs[name] += runs[file.name]
            if file.joins:
                del runs[file.name]
        return runs


def image(level: float) -> Array:
    return np.full((1, 3, 12, 16), level, np.float32)


def noise(seed: int) -> Array:
    return np.random.default_rng(seed).random((1, 3, 12, 16), dtype=np.float32)


def looking() -> Manifest:
    """The tiny bundle, as if its branch for segmentation read the image too."""
    (trunk, branch, *rest) = MANIFEST.layouts["split"]
    branch = msgspec.structs.replace(branch, inputs=(*branch.inputs, *trunk.inputs))
    return msgspec.structs.replace(MANIFEST, layouts={"split": (trunk, branch, *rest)})


@pytest.mark.parametrize("keyframes", [None, Keyframes(threshold=0), Keyframes(every=1, threshold=1)])
def test_at_full_rate_with_every_frame_a_keyframe_it_is_the_bundle(keyframes: Keyframes | None) -> None:
    runner = BundleRunner(TINY, layout="split", threads=1)
    video = VideoRunner(runner, keyframes=keyframes)
    for frame in (noise(0), noise(1), noise(1), noise(2)):
        expected = runner(frame)
        found = video(frame)
        assert tuple(found) == TASKS
        for task, (array, age) in found.items():
            np.testing.assert_array_equal(array, expected[task])
            assert age == 0


@given(RATES, st.one_of(st.none(), KEYFRAMES), LEVELS)
def test_an_answer_is_that_of_the_frame_that_its_age_says(
    rates: dict[str, Fraction], keyframes: Keyframes | None, levels: list[float]
) -> None:
    bundle = FakeBundle()
    video, whole = VideoRunner(bundle.runner, rates=rates, keyframes=keyframes), FakeBundle().runner
    for index, level in enumerate(levels):
        for task, (array, age) in video(image(level)).items():
            np.testing.assert_array_equal(array, whole(image(levels[index - age]))[task])
            # A turn comes at least every 1/rate frames, and then the features are younger than `every`.
            assert age < -(-1 // rates[task]) + (keyframes.every - 1 if keyframes else 0)


@given(RATES)
def test_each_task_is_run_at_its_rate(rates: dict[str, Fraction]) -> None:
    bundle = FakeBundle()
    video = VideoRunner(bundle.runner, rates=rates)
    for _ in range(len(video.cycle)):
        video(image(0.5))  # the first frame computes all: it is no part of the steady state
    before = bundle.runs()
    for _ in range(len(video.cycle)):
        video(image(0.5))
    for task, rate in rates.items():
        head = f"head_{task}"
        assert bundle.runs()[head] - before[head] == rate * len(video.cycle)
    due = sum(bool(frame) for frame in video.cycle)
    assert bundle.runs()["trunk"] - before["trunk"] == due


@given(st.integers(1, 6), st.integers(1, 20))
def test_a_still_video_runs_every_file_once_in_so_many_frames(every: int, frames: int) -> None:
    bundle = FakeBundle()
    video = VideoRunner(bundle.runner, keyframes=Keyframes(every=every, threshold=1e-6))
    ages = [{answer.age for answer in video(image(0.5)).values()} for _ in range(frames)]
    assert set(bundle.runs().values()) == {-(-frames // every)}
    assert ages == [{index % every} for index in range(frames)]


def test_the_trunk_runs_anew_when_the_frame_has_drifted_from_the_keyframe_not_from_its_neighbor() -> None:
    bundle = FakeBundle()
    video = VideoRunner(bundle.runner, keyframes=Keyframes(every=100, threshold=0.05))
    found = [video(image(0.02 * index))["depth"].age for index in range(8)]
    assert found == [0, 1, 2, 0, 1, 2, 0, 1]


def test_noise_makes_no_keyframe_and_a_local_change_does() -> None:
    # Block means hide noise where cells have several pixels; this bundle's input is too small for that.
    big = msgspec.structs.replace(
        MANIFEST, input=msgspec.structs.replace(MANIFEST.input, height=96, width=128)
    )
    video = VideoRunner(FakeBundle(manifest=big).runner, keyframes=Keyframes(every=100))
    rng, still = np.random.default_rng(0), np.full((1, 3, 96, 128), 0.5, np.float32)
    ages = [video(still + rng.normal(0, 0.03, still.shape).astype(np.float32))["depth"].age for _ in range(9)]
    assert ages == list(range(9))
    still[..., :24, :32] = 1
    assert video(still)["depth"].age == 0


def test_a_task_whose_turn_it_is_runs_its_head_alone_on_kept_features() -> None:
    bundle = FakeBundle()
    rates = dict.fromkeys(TASKS, Fraction(1, 3))
    video = VideoRunner(bundle.runner, rates=rates, keyframes=Keyframes(every=5, threshold=1e-6))
    assert video.cycle == ({"segmentation"}, set(), {"depth", "normals"})  # by cost: two are one branch
    ages = [{task: answer.age for task, answer in video(image(0.5)).items()} for _ in range(7)]
    assert set(bundle.runs().values()) == {2}
    assert ages[4] == {"segmentation": 4, "depth": 4, "normals": 4}  # their turns came, but nothing new
    assert ages[5] == {"segmentation": 5, "depth": 0, "normals": 0}
    assert ages[6] == {"segmentation": 1, "depth": 1, "normals": 1}


def test_a_branch_that_reads_the_image_runs_anew_and_is_as_old_as_the_features() -> None:
    bundle = FakeBundle(manifest=looking())
    video = VideoRunner(bundle.runner, keyframes=Keyframes(every=5, threshold=1))
    first = video(image(0.1))
    second = video(image(0.2))
    assert bundle.runs()["trunk"] == bundle.runs()["head_depth"] == 1
    assert bundle.runs()["branch_segmentation"] == bundle.runs()["head_segmentation"] == 2
    assert (second["segmentation"].array != first["segmentation"].array).all()
    assert {answer.age for answer in second.values()} == {1}


def test_nobody_can_write_into_an_answer_that_still_stands() -> None:
    video = VideoRunner(FakeBundle().runner, rates={"depth": Fraction(1, 2)})
    for _ in range(2):
        for answer in video(image(0.5)).values():
            with pytest.raises(ValueError, match="read-only"):
                answer.array[:] = 0


def test_after_reset_another_video_begins() -> None:
    bundle = FakeBundle()
    video = VideoRunner(
        bundle.runner, rates=dict.fromkeys(TASKS, Fraction(1, 4)), keyframes=Keyframes(threshold=1)
    )
    for _ in range(3):
        video(image(0.1))
    video.reset()
    assert {answer.age for answer in video(image(0.1)).values()} == {0}
    assert set(bundle.runs().values()) == {2}


def test_a_bad_frame_is_refused_even_when_nothing_is_due_and_the_video_goes_on() -> None:
    video = VideoRunner(FakeBundle().runner, rates=dict.fromkeys(TASKS, Fraction(1, 9)))
    video(image(0.1))
    with pytest.raises(UsageError, match="float64"):
        video(image(0.1).astype(np.float64))
    assert min(answer.age for answer in video(image(0.1)).values()) <= 1


def test_a_frame_that_is_not_finite_is_a_keyframe() -> None:
    video = VideoRunner(FakeBundle().runner, keyframes=Keyframes(threshold=1))
    assert [video(image(level))["depth"].age for level in (0.1, np.nan, 0.1, 0.1)] == [0, 0, 0, 1]


def test_keyframes_need_a_trunk_in_a_file_of_its_own() -> None:
    with pytest.raises(UsageError, match=r"--keyframes: expected a trunk.*layout merged"):
        VideoRunner(BundleRunner(TINY, layout="merged"), keyframes=Keyframes())
    no_trunk = msgspec.structs.replace(MANIFEST, layouts={"split": MANIFEST.layouts["split"][1:]})
    with pytest.raises(UsageError, match="begins with `branch_segmentation`"):
        VideoRunner(FakeBundle(manifest=no_trunk).runner, keyframes=Keyframes())


def test_rates_are_for_the_tasks_of_the_runner() -> None:
    with pytest.raises(UsageError, match=r"`dept`.*`depth`"):
        VideoRunner(FakeBundle().runner, rates={"dept": Fraction(1, 2)})


def test_keyframes_are_read_with_their_defaults() -> None:
    assert parse_keyframes("every=3,threshold=0.1") == Keyframes(every=3, threshold=0.1)
    assert parse_keyframes("every=3") == Keyframes(every=3)
    assert parse_keyframes(str(Keyframes())) == Keyframes()


@pytest.mark.parametrize(
    "text", ["every=0", "every=241", "threshold=-1", "threshold=nan", "threshold=2", "every=x", "evry=3", "8"]
)
def test_what_is_no_keyframes(text: str) -> None:
    with pytest.raises(UsageError, match=r"--keyframes: expected .*Try every=8,threshold=0\.02"):
        parse_keyframes(text)
