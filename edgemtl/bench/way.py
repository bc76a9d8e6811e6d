"""Way: one way of running a bundle, which bench prices by its latency, memory and size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgemtl.core.bundle import Manifest, ModelFile
from edgemtl.runtime.runner import BundleRunner, choose_layout, needed_files
from edgemtl.runtime.session import SessionFactory

Feeds = Mapping[str, NDArray[Any]]
FEW_TASKS = 4  # up to so many, every subset is measured: 14 of them; beyond, the single tasks


class Way(msgspec.Struct, frozen=True):
    """Some ``tasks`` in a ``layout``; or, where ``file`` names one, only this file of the layout."""

    layout: str
    tasks: tuple[str, ...]
    file: str | None = None

    def files(self, manifest: Manifest) -> tuple[ModelFile, ...]:
        """The model files that it runs."""
        if self.file is None:
            return needed_files(manifest, self.layout, self.tasks)
        return tuple(file for file in manifest.layouts[self.layout] if file.name == self.file)

    def feeds(self, manifest: Manifest, batch: int) -> Feeds:
        """A random batch of what it reads."""
        if self.file is None:
            image = manifest.input
            return {image.name: _random((batch, 3, image.height, image.width))}
        (file,) = self.files(manifest)
        return {tensor.name: _random((batch, *tensor.shape[1:]), tensor.dtype) for tensor in file.inputs}

    def open(
        self, folder: Path, manifest: Manifest, threads: int, sessions: SessionFactory
    ) -> Callable[[Feeds], object]:
        """Open the files; what returns runs them once on such a batch.

        Raises:
            SetupError: the runtime is missing or cannot run the files.
        """
        if self.file is not None:
            (file,) = self.files(manifest)
            return sessions(folder / file.path, file, threads).run
        runner = BundleRunner(
            folder,
            tasks=self.tasks,
            layout=self.layout,
            threads=threads,
            sessions=sessions,
            manifest=manifest,
        )
        return lambda feeds: runner(feeds[manifest.input.name])


def all_ways(manifest: Manifest) -> dict[str, dict[str, Way]]:
    """The ways that a report lists, under the names of its fields: layouts, segments, subsets."""
    tasks = tuple(manifest.tasks)
    sizes = range(1, len(tasks)) if len(tasks) <= FEW_TASKS else (1,)
    subsets = [subset for size in sizes for subset in combinations(tasks, size)]
    return {
        "layouts": {layout: Way(layout, tasks) for layout in manifest.layouts},
        "segments": {file.name: Way("split", tasks, file.name) for file in manifest.layouts.get("split", ())},
        "subsets": {"+".join(subset): Way(choose_layout(manifest, subset), subset) for subset in subsets},
    }


def _random(shape: tuple[int, ...], dtype: str = "float32") -> NDArray[Any]:
    """Values between 0 and 1; of an integer type all 0, which as an index is always one that exists."""
    return np.random.default_rng(0).random(shape, dtype=np.float32).astype(dtype)
