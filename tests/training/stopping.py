"""A training that dies in the middle."""

from __future__ import annotations

import pytest

from edgemtl.data import Batch
from edgemtl.training.trainer import Trainer


class StopError(Exception):
    """Stands for whatever ends a process."""


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch, *, save_every: int) -> None:
    """Let training fail before the ``step``-th step that is made from now on, in whichever run that is.

    Each run leaves a checkpoint after every ``save_every`` of its steps.
    """
    learn, made = Trainer._learn, 0

    def learn_or_stop(self: Trainer, batch: Batch) -> dict[str, float]:
        nonlocal made
        if self.step and self.step % save_every == 0:
            self.save()
        if made == step:
            raise StopError
        made += 1
        return learn(self, batch)

    monkeypatch.setattr(Trainer, "_learn", learn_or_stop)
