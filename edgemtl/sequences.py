"""What rates and keyframes cost in accuracy: a bundle over videos, against itself on every frame."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

import msgspec

from edgemtl.core.bundle import Manifest
from edgemtl.core.delta_m import against
from edgemtl.core.errors import DataError
from edgemtl.core.report import EvalReport, Scores, VideoUse
from edgemtl.data.base import Dataset
from edgemtl.data.loader import eval_batches
from edgemtl.run import Run
from edgemtl.runtime.batches import in_batches, together
from edgemtl.runtime.opening import open_session
from edgemtl.runtime.runner import BundleRunner
from edgemtl.runtime.schedule import parse_rates
from edgemtl.runtime.session import Array, recording
from edgemtl.runtime.video import Keyframes, VideoRunner, video_layout
from edgemtl.training.evaluate import of_arrays, score

_LOG = logging.getLogger(__name__)


def evaluate_video(
    run: Run,
    bundle: Path,
    manifest: Manifest,
    *,
    split: str,
    rates: Sequence[str] = (),
    keyframes: Keyframes | None = None,
) -> EvalReport:
    """Metrics over a split of videos: each frame is judged by the answers that stand when it has been run.

    Raises:
        DataError: the split holds single images.
        UsageError, SetupError: as ``BundleRunner`` and ``VideoRunner``.
    """
    dataset = run.recipe.data.dataset(split)
    if not dataset.firsts:
        raise DataError(
            f"--split {split}",
            expected="videos",
            found="single images",
            fix="Name --split video. Scenes have it; a folder of your own has it beside its train and val.",
        )
    ran: list[str] = []
    sessions = recording(open_session, ran)
    runner = BundleRunner(bundle, layout=video_layout(manifest), sessions=sessions, manifest=manifest)
    given = parse_rates(rates, runner.tasks)
    video = VideoRunner(runner, rates=given, keyframes=keyframes)
    whole = _film(VideoRunner(runner), run, dataset)
    ran.clear()
    found = _film(video, run, dataset)
    report = run.report("bundle", split, dataset, found.scores, bundle)
    use = VideoUse(
        rates={task: str(rate) for task, rate in given.items()},
        keyframes=None if keyframes is None else str(keyframes),
        age_frames=found.age_frames,
        calls={name: calls / len(dataset) for name, calls in sorted(Counter(ran).items())},
    )
    report = msgspec.structs.replace(report, video=use)
    try:
        return against(report, whole.scores, "all tasks on every frame")
    except DataError as error:  # a metric that is 0 has no share to lose; that must not cost the others
        _LOG.warning("no Delta_m: %s", error)
        return report


class _Filmed(NamedTuple):
    scores: Scores
    age_frames: dict[str, float]


def _film(video: VideoRunner, run: Run, dataset: Dataset) -> _Filmed:
    """Run every video of a dataset from its first frame to its last."""
    ages: Counter[str] = Counter()
    frames, batch = count(), video.runner.manifest.input.batch[0]

    def film(image: Array) -> dict[str, Array]:
        answers = video(image)
        ages.update({task: answer.age for task, answer in answers.items()})
        return {task: answer.array for task, answer in answers.items()}

    def predict(image: Array) -> dict[str, Array]:
        if next(frames) in dataset.firsts:
            video.reset()
        return together(in_batches(film, image, batch))

    scores = score(of_arrays(predict), run.recipe.tasks, eval_batches(dataset, batch=1))
    return _Filmed(scores, {task: ages[task] / len(dataset) for task in run.recipe.tasks})
