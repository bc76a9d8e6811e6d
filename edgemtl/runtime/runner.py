"""BundleRunner: runs a bundle, or the part of it that some of its tasks need."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgemtl.core.bundle import Manifest, ModelFile, read_manifest
from edgemtl.core.errors import UsageError, nearest
from edgemtl.runtime.batches import in_batches, together
from edgemtl.runtime.opening import open_session
from edgemtl.runtime.session import Array, Session, SessionFactory, available_cores


class Step(NamedTuple):
    """Run a session: what it reads and writes by name, and what nobody needs once it has run."""

    session: Session
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    frees: tuple[str, ...]


class BundleRunner:
    """Opens the files that any of ``tasks`` (by default all of them) may need; a call runs those it needs.

    ``runner(image)`` takes float32 [B, 3, height, width] and gives an array for each task;
    ``runner(image, tasks)`` gives only those tasks and, in the split layout, runs only what they need.
    Without ``layout`` it takes the split one for a strict subset of the tasks, else the merged one, where the
    bundle has it. ``threads`` is for each session; by default all cores. A caller that has read the manifest
    already passes it, so that the hashes are not checked twice.

    Raises:
        BundleError: the bundle is damaged or not what its manifest says.
        UsageError: the bundle has no such task or layout, or does not take such an image.
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
        self.files = _openable(self.manifest.layouts[self.layout], self.tasks)
        self.threads = threads or available_cores()
        self._sessions = {file.name: sessions(folder / file.path, file, self.threads) for file in self.files}
        self._schedules: dict[tuple[frozenset[str], tuple[str, ...]], tuple[Step, ...]] = {}
        image = self.manifest.input
        self._image, self._image_shape, self._batch = image.name, (3, image.height, image.width), image.batch

    @property
    def runtime(self) -> str:
        """The name and version of what runs the files."""
        return next(iter(self._sessions.values())).runtime

    def __call__(self, image: NDArray[np.float32], tasks: Sequence[str] | None = None) -> dict[str, Array]:
        """Float32 [B, 3, height, width], RGB in 0..1 -> an array for every task, as the manifest says.

        Raises:
            UsageError: the bundle takes no such image, or the runner was not opened for one of the tasks.
        """
        self.check(image)
        if tasks is None:
            wanted = self.tasks
        else:
            wanted = tuple(tasks)
            check_tasks("tasks", wanted, self.tasks)
        return self.compute({self._image: image}, wanted)

    def run_all(self, images: NDArray[np.float32], tasks: Sequence[str] | None = None) -> dict[str, Array]:
        """As a call, but for any number of images: in the smallest batches that the bundle takes, so that
        memory stays small.

        Raises:
            UsageError: as a call, or there is no image.
        """
        if not (isinstance(images, np.ndarray) and images.ndim == 4 and len(images)):
            self.check(images)  # it is refused
        return together(in_batches(lambda batch: self(batch, tasks), images, self._batch[0]))

    def compute(self, tensors: Mapping[str, Array], wanted: tuple[str, ...]) -> dict[str, Array]:
        """The tensors ``wanted``, by name, from those at hand: the image, or what files have written before.

        Only files that lie in between are run.
        """
        key = frozenset(tensors), wanted
        if key not in self._schedules:
            self._schedules[key] = self._schedule(*key)
        table = dict(tensors)
        for session, reads, writes, frees in self._schedules[key]:
            table.update(session.run({name: table[name] for name in reads}, writes))
            for name in frees:
                del table[name]
        return {name: table[name] for name in wanted}

    def macs(self, tasks: Collection[str]) -> int:
        """The multiply-adds of the files that run for some tasks."""
        return sum(file.macs for file in needed_files(self.manifest, self.layout, tasks))

    def _schedule(self, known: frozenset[str], wanted: tuple[str, ...]) -> tuple[Step, ...]:
        kept = known.union(wanted)
        steps: list[Step] = []
        for file, writes in reversed(_route(self.files, known, wanted)):
            reads = tuple(tensor.name for tensor in file.inputs)
            frees = tuple(name for name in reads if name not in kept)
            steps.append(Step(self._sessions[file.name], reads, writes, frees))
            kept = kept.union(reads)
        return tuple(reversed(steps))

    def check(self, image: NDArray[np.float32]) -> None:
        """Refuse what is no image for this bundle.

        Raises:
            UsageError: as above, with what was expected and found.
        """
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
            raise UsageError(
                self.manifest.input.name,
                expected=f"a float32 array {_by(batch, *self._image_shape)}",
                found=found,
                fix="Read pictures with `load_image`, or export for another size or batch.",
            )


def needed_files(manifest: Manifest, layout: str, tasks: Iterable[str]) -> tuple[ModelFile, ...]:
    """The files of a layout that run for some tasks, in the order they run."""
    steps = _route(manifest.layouts[layout], frozenset({manifest.input.name}), tasks)
    return tuple(file for file, _ in steps)


def _route(
    files: Sequence[ModelFile], known: frozenset[str], wanted: Iterable[str]
) -> list[tuple[ModelFile, tuple[str, ...]]]:
    """The files that run from known tensors to wanted ones, and what each is asked for: found from the last
    to the first, collecting what is needed of the ones before.
    """
    needed = set(wanted) - known
    steps = []
    for file in reversed(files):
        writes = tuple(tensor.name for tensor in file.outputs if tensor.name in needed)
        if not writes or (file.joins and len(writes) < len(file.outputs)):
            continue
        steps.append((file, writes))
        needed.difference_update(writes)
        needed.update({tensor.name for tensor in file.inputs} - known)
    return steps[::-1]


def _openable(files: Sequence[ModelFile], tasks: Collection[str]) -> tuple[ModelFile, ...]:
    """The files that a run for some of the tasks may need."""
    return tuple(
        file
        for file in files
        if (set(file.tasks) <= set(tasks) if file.joins else not set(file.tasks).isdisjoint(tasks))
    )


def choose_layout(manifest: Manifest, tasks: Sequence[str], layout: str | None = None) -> str:
    """``layout`` if it is there; by default the one that wastes least on ``tasks``.

    Raises:
        UsageError: the bundle has no such layout.
    """
    if layout is None:
        subset = set(tasks) < set(manifest.tasks)
        preferred = ("split", "merged") if subset else ("merged", "split")
        return next(name for name in preferred if name in manifest.layouts)
    if layout not in manifest.layouts:
        raise UsageError(
            "layout",
            expected="a layout of the bundle",
            found=f"`{layout}`",
            fix=nearest(layout, manifest.layouts),
        )
    return layout


def check_tasks(where: str, tasks: Sequence[str], known: Sequence[str]) -> None:
    """Refuse an empty selection and unknown names.

    Raises:
        UsageError: as above, with the nearest name.
    """
    for task in tasks or ("",):
        if task not in known:
            raise UsageError(
                where,
                expected="tasks of the bundle",
                found=f"`{task}`" if tasks else "none",
                fix=nearest(task, known),
            )


def _by(*sizes: object) -> str:
    return "x".join(map(str, sizes))
