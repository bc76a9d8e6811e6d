"""BundleRunner: runs a bundle, or the part of it that some of its tasks need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgemtl.core.bundle import Manifest, ModelFile, read_manifest
from edgemtl.core.errors import RecipeError, nearest
from edgemtl.runtime.opening import open_session
from edgemtl.runtime.session import Array, Session, SessionFactory, available_cores


class Step(NamedTuple):
    """Run a session: what it reads and writes by name, and what nobody needs once it has run."""

    session: Session
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    frees: tuple[str, ...]


class BundleRunner:
    """Opens the files that ``tasks`` need (by default all of them) and runs them in order.

    ``runner(image)`` takes float32 [B, 3, height, width] and gives an array for each task;
    ``runner(image, tasks)`` gives only those tasks and, in the split layout, runs only what they need.
    Without ``layout`` it takes the split one for a strict subset of the tasks, else the merged one, where the
    bundle has it. ``threads`` is for each session; by default all cores. A caller that has read the manifest
    already passes it, so that the hashes are not checked twice.

    Raises:
        BundleError: the bundle is damaged or not what its manifest says.
        RecipeError: the bundle has no such task or layout, or does not take such an image.
        SetupError: the runtime is missing or cannot run the files.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tasks: Sequence[str] | None = None,
        layout: str | None = None,
        threads: int | None = None,
        sessions: SessionFactory = open_session,
        manifest: Manifest | None = None,
    ) -> None:
        self.manifest = manifest or read_manifest(folder)
        self.tasks = tuple(self.manifest.tasks) if tasks is None else tuple(tasks)
        check_tasks("tasks", self.tasks, tuple(self.manifest.tasks))
        self.layout = choose_layout(self.manifest, self.tasks, layout)
        self.files = needed_files(self.manifest, self.layout, self.tasks)
        self.threads = threads or available_cores()
        self._sessions = {file.name: sessions(folder / file.path, file, self.threads) for file in self.files}
        self._schedules = {self.tasks: self._schedule(self.tasks)}
        image = self.manifest.input
        self._image_shape, self._batch = (3, image.height, image.width), image.batch

    @property
    def runtime(self) -> str:
        """The name and version of what runs the files."""
        return next(iter(self._sessions.values())).runtime

    def __call__(self, image: NDArray[np.float32], tasks: Sequence[str] | None = None) -> dict[str, Array]:
        """Float32 [B, 3, height, width], RGB in 0..1 -> an array for every task, as the manifest says.

        Raises:
            RecipeError: the bundle takes no such image, or the runner was not opened for one of the tasks.
        """
        self._check(image)
        wanted = self.tasks if tasks is None else tuple(tasks)
        if wanted not in self._schedules:
            check_tasks("tasks", wanted, self.tasks)
            self._schedules[wanted] = self._schedule(wanted)
        tensors = {self.manifest.input.name: image}
        for session, reads, writes, frees in self._schedules[wanted]:
            tensors.update(session.run({name: tensors[name] for name in reads}, writes))
            for name in frees:
                del tensors[name]
        return {task: tensors[self.manifest.tasks[task].tensor.name] for task in wanted}

    def _schedule(self, tasks: tuple[str, ...]) -> tuple[Step, ...]:
        """Walk the files from the last to the first, collecting what is needed of the ones before."""
        needed = {self.manifest.tasks[task].tensor.name for task in tasks}
        steps: list[Step] = []
        for file in reversed(needed_files(self.manifest, self.layout, tasks)):
            reads = tuple(tensor.name for tensor in file.inputs)
            writes = tuple(tensor.name for tensor in file.outputs if tensor.name in needed)
            frees = tuple(name for name in reads if name not in needed)
            steps.append(Step(self._sessions[file.name], reads, writes, frees))
            needed.update(reads)
        return tuple(reversed(steps))

    def _check(self, image: NDArray[np.float32]) -> None:
        smallest, largest = self._batch
        if (
            not isinstance(image, np.ndarray)
            or image.dtype != np.float32
            or image.shape[1:] != self._image_shape
            or not smallest <= len(image) <= largest
        ):
            batch = str(smallest) if smallest == largest else f"{smallest}..{largest}"
            kind = type(image).__name__
            found = f"{image.dtype} {_by(*image.shape)}" if isinstance(image, np.ndarray) else f"a {kind}"
            raise RecipeError(
                self.manifest.input.name,
                expected=f"a float32 array {_by(batch, *self._image_shape)}",
                found=found,
                fix="Read pictures with `load_image`, or export for another size or batch.",
            )


def needed_files(manifest: Manifest, layout: str, tasks: Sequence[str]) -> tuple[ModelFile, ...]:
    """The files of a layout that some tasks need, in the order they run."""
    return tuple(file for file in manifest.layouts[layout] if set(file.tasks) & set(tasks))


def choose_layout(manifest: Manifest, tasks: Sequence[str], layout: str | None = None) -> str:
    """``layout`` if it is there; by default the one that wastes least on ``tasks``.

    Raises:
        RecipeError: the bundle has no such layout.
    """
    if layout is None:
        subset = set(tasks) < set(manifest.tasks)
        preferred = ("split", "merged") if subset else ("merged", "split")
        return next(name for name in preferred if name in manifest.layouts)
    if layout not in manifest.layouts:
        raise RecipeError(
            "layout",
            expected="a layout of the bundle",
            found=f"`{layout}`",
            fix=nearest(layout, manifest.layouts),
        )
    return layout


def check_tasks(where: str, tasks: Sequence[str], known: Sequence[str]) -> None:
    """Refuse an empty selection and unknown names.

    Raises:
        RecipeError: as above, with the nearest name.
    """
    for task in tasks or ("",):
        if task not in known:
            raise RecipeError(
                where,
                expected="tasks of the bundle",
                found=f"`{task}`" if tasks else "none",
                fix=nearest(task, known),
            )


def _by(*sizes: object) -> str:
    return "x".join(map(str, sizes))
