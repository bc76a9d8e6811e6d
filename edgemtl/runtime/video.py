"""VideoRunner: runs a bundle frame by frame, and computes only what is due and what has changed."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgemtl.core.bundle import Manifest
from edgemtl.core.errors import UsageError
from edgemtl.runtime.runner import BundleRunner, check_tasks
from edgemtl.runtime.schedule import LONGEST_CYCLE, stagger
from edgemtl.runtime.session import Array

CELLS = 16  # of a thumbnail, each way: a mean over so many pixels hides the noise of a sensor


class Keyframes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When the trunk is computed anew: ``every`` so many frames, or when the frame has changed.

    It has when the mean absolute difference between its thumbnail and the last keyframe's, gray in 0..1, is
    ``threshold`` or more. So 0 makes every frame a keyframe.

    Raises:
        UsageError: a number is out of range.
    """

    every: int = 8
    threshold: float = 0.02

    def __post_init__(self) -> None:
        if not 1 <= self.every <= LONGEST_CYCLE:
            raise _bad_keyframes(f"every=1 to {LONGEST_CYCLE}", str(self.every))
        if not 0 <= self.threshold <= 1:
            raise _bad_keyframes("a threshold in 0..1", str(self.threshold))

    def __str__(self) -> str:
        return f"every={self.every},threshold={self.threshold:g}"


def parse_keyframes(text: str) -> Keyframes:
    """Read ``every=8,threshold=0.02``; what is left out has its default.

    Raises:
        UsageError: it is not of this form, or a number is out of range.
    """
    fields = {key: value for key, _, value in (part.partition("=") for part in text.split(",") if part)}
    try:
        return msgspec.convert(fields, Keyframes, strict=False)
    except msgspec.ValidationError as error:
        raise _bad_keyframes("every=FRAMES,threshold=DIFFERENCE", f"`{text}` ({error})") from error


class Answer(NamedTuple):
    """A task's array, and how many frames ago the image was taken that it is about: 0 for this frame.

    The array may be given again for later frames, so it cannot be written to.
    """

    array: Array
    age: int


class VideoRunner:
    """Runs a video through a `BundleRunner`: ``video(image)`` gives an `Answer` for each task.

    A task at ``rates[task]`` is computed on that share of the frames (see ``stagger``); in between, its last
    answer stands. The first frame computes all. A task without a rate is computed on every frame.

    With ``keyframes`` the trunk's features are kept, and computed anew only on a keyframe, which is looked
    for when a task is due. Heads and branches give the same answer to the same features, so a task that has
    answered since the last keyframe is not run: its answer stands, and ages. Only where a branch reads the
    image itself, its tasks run anew whenever they are due; then the age is that of the trunk's image, the
    oldest that the answer depends on.

    Raises:
        UsageError: an unknown task or an impossible rate; or ``keyframes`` for files without a trunk.
    """

    def __init__(
        self,
        runner: BundleRunner,
        *,
        rates: Mapping[str, Fraction] | None = None,
        keyframes: Keyframes | None = None,
    ) -> None:
        self.runner, self._keyframes = runner, keyframes
        every_frame = dict.fromkeys(runner.tasks, Fraction(1))
        if rates:
            check_tasks("rates", tuple(rates), runner.tasks)
        self.cycle = stagger({**every_frame, **(rates or {})}, runner.macs)
        self._trunk = () if keyframes is None else _trunk(runner)
        self._looking = _tasks_that_look(runner)
        self.reset()

    def reset(self) -> None:
        """Another video begins: the next frame computes all."""
        self._frame = 0
        self._answers: dict[str, Array] = {}
        self._taken: dict[str, int] = {}  # the frame that an answer is about
        self._features: dict[str, Array] = {}
        self._keyframe, self._thumbnail = 0, np.empty(0, np.float32)

    def __call__(self, image: NDArray[np.float32]) -> dict[str, Answer]:
        """The next frame, float32 [B, 3, height, width], RGB in 0..1 -> every task's answer and its age.

        Raises:
            UsageError: the bundle takes no such image; the video goes on with the next.
        """
        self.runner.check(image)
        tasks = self.runner.tasks
        due = self.cycle[self._frame % len(self.cycle)] if self._frame else frozenset(tasks)
        if due and self._keyframes is not None:
            self._renew_features(image, self._keyframes)
            stale = {task for task in due if self._taken.get(task, -1) < self._keyframe}
            due = due & (stale | self._looking)
        self._answer(due, image)
        answers = {task: Answer(self._answers[task], self._frame - self._taken[task]) for task in tasks}
        self._frame += 1
        return answers

    def _renew_features(self, image: NDArray[np.float32], keyframes: Keyframes) -> None:
        """Run the trunk if this frame is a keyframe."""
        thumbnail = _thumbnail(image)
        alike = (
            thumbnail.shape == self._thumbnail.shape
            and np.abs(thumbnail - self._thumbnail).mean(axis=(1, 2)).max() < keyframes.threshold
        )
        if not alike or self._frame - self._keyframe >= keyframes.every:
            self._features = self.runner.compute(self._named(image), self._trunk)
            self._keyframe, self._thumbnail = self._frame, thumbnail

    def _answer(self, tasks: frozenset[str], image: NDArray[np.float32]) -> None:
        """Run what lies between the kept features, or the image where there are none, and some tasks."""
        found = self.runner.compute({**self._features, **self._named(image)}, tuple(tasks))
        for answer in found.values():
            answer.setflags(write=False)
        self._answers.update(found)
        self._taken.update(dict.fromkeys(tasks, self._keyframe if self._features else self._frame))

    def _named(self, image: NDArray[np.float32]) -> dict[str, Array]:
        return {self.runner.manifest.input.name: image}


def video_layout(manifest: Manifest) -> str:
    """The layout in which a video is run: split, where a task can be left out, unless the bundle lacks it."""
    return "split" if "split" in manifest.layouts else "merged"


def _trunk(runner: BundleRunner) -> tuple[str, ...]:
    """What the trunk writes: the first file of the split layout, where all of the runner's tasks need it."""
    first, *others = runner.files
    if runner.layout != "split" or not set(runner.tasks) <= set(first.tasks):
        raise UsageError(
            "--keyframes",
            expected="a trunk that all tasks share, in a file of its own",
            found=f"the layout {runner.layout} that begins with `{first.name}`",
            fix="Export with `--layout split` a network whose first stage all tasks share.",
        )
    read = {tensor.name for file in others for tensor in file.inputs}
    return tuple(tensor.name for tensor in first.outputs if tensor.name in read)


def _tasks_that_look(runner: BundleRunner) -> frozenset[str]:
    """The tasks of which a file behind the trunk reads the image."""
    image = runner.manifest.input.name
    looking = [file.tasks for file in runner.files[1:] if image in {tensor.name for tensor in file.inputs}]
    return frozenset(task for tasks in looking for task in tasks if task in runner.tasks)


def _thumbnail(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """[B, 3, H, W] -> gray [B, h, w] of about 16 x 16 cells, without the pixels beyond the last."""
    height, width = (max(1, side // CELLS) for side in image.shape[2:])
    rows, columns = image.shape[2] // height, image.shape[3] // width
    gray = image[:, :, : rows * height, : columns * width].sum(axis=1)
    cells = gray.reshape(-1, rows, height, columns, width).sum(axis=2).sum(axis=3)
    thumbnail: NDArray[np.float32] = cells / np.float32(3 * height * width)
    return thumbnail


def _bad_keyframes(expected: str, found: str) -> UsageError:
    return UsageError("--keyframes", expected=expected, found=found, fix="Try every=8,threshold=0.02.")
