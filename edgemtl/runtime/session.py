"""Session: one model file, open and ready to run. Every runtime is a subclass, in a file of its own."""

from __future__ import annotations

import os
import sys
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.core.bundle import ModelFile

Array = NDArray[Any]


class Session(ABC):
    """A model file in memory. ``runtime`` is the name and version of what runs it, ``settings`` what else its
    speed and memory depend on."""

    runtime: str
    settings: Mapping[str, str] = MappingProxyType({})

    @property
    def compute_ms(self) -> float | None:
        """What the device took for the last run by its own events, without the copies to and from it; None
        where it does not tell.
        """
        return None

    @abstractmethod
    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run once. ``feeds`` holds every input by name; ``outputs`` names what to return, by default all.

        The arrays are the caller's to keep: no later run writes into them.
        """


SessionFactory = Callable[[Path, ModelFile, int], Session]


class FakeSession(Session):
    """Answers with arrays of the declared shapes; tests what drives sessions where no model file is at hand.

    An output is constant over a sample: the mean of all that entered for this sample, plus an offset that the
    output's name fixes. ``runs`` lists the outputs that each call asked for.
    """

    runtime = "fake"

    def __init__(self, file: ModelFile) -> None:
        self.runs: list[tuple[str, ...]] = []
        self._inputs = tuple(tensor.name for tensor in file.inputs)
        self._outputs = {tensor.name: tensor for tensor in file.outputs}

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """See ``Session.run``."""
        wanted = tuple(self._outputs) if outputs is None else tuple(outputs)
        self.runs.append(wanted)
        means = [feeds[name].reshape(len(feeds[name]), -1).mean(axis=1) for name in self._inputs]
        return {name: self._fill(name, np.mean(means, axis=0)) for name in wanted}

    def _fill(self, name: str, samples: Array) -> Array:
        tensor = self._outputs[name]
        offset = zlib.crc32(name.encode()) % 1000 / 1000
        filled: Array = np.empty((len(samples), *tensor.shape[1:]), tensor.dtype)
        filled.reshape(len(samples), -1)[:] = (samples + offset)[:, None]
        return filled


class RecordedSession(Session):
    """Another session that writes a name into ``ran`` whenever it runs."""

    def __init__(self, session: Session, name: str, ran: list[str]) -> None:
        self.runtime, self.settings = session.runtime, session.settings
        self._session, self._name, self._ran = session, name, ran

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """See ``Session.run``."""
        self._ran.append(self._name)
        return self._session.run(feeds, outputs)


def recording(sessions: SessionFactory, ran: list[str]) -> SessionFactory:
    """Open sessions that write the name of their file into ``ran`` whenever they run."""
    return lambda path, file, threads: RecordedSession(sessions(path, file, threads), file.name, ran)


def available_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
