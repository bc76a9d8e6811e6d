"""metrics.jsonl: what training found, a record an epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgemtl.core.errors import DataError
from edgemtl.core.files import replacing

Record = dict[str, Any]


class MetricsLog:
    """The records of a run. The file is replaced as a whole, so a killed run leaves no half of a line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Record]:
        """All records; none where no epoch has ended yet.

        Raises:
            DataError: a line is no record.
        """
        if not self.path.exists():
            return []
        try:
            return [json.loads(line) for line in self.path.read_text().splitlines()]
        except (OSError, ValueError) as error:
            raise DataError(
                self.path, expected="a JSON record a line", found=str(error), fix="Train again."
            ) from error

    def append(self, record: Record) -> None:
        """Add a record at the end."""
        self._write([*self.read(), record])

    def keep_until(self, step: int) -> None:
        """Drop what was recorded after a step, which a resumed run will do again."""
        self._write([record for record in self.read() if record["step"] <= step])

    def _write(self, records: list[Record]) -> None:
        with replacing(self.path) as draft:
            draft.write_text("".join(json.dumps(record) + "\n" for record in records))


class Epoch(msgspec.Struct):
    """What accumulates over an epoch. ``steps``: those in which a task had labels. ``waited_s``: the part
    of ``spent_s`` in which no batch was ready.
    """

    losses: dict[str, float] = {}
    steps: dict[str, int] = {}
    waited_s: float = 0.0
    spent_s: float = 0.0

    def add(self, losses: Mapping[str, float], waited_s: float, spent_s: float) -> None:
        """Take in a step, with the losses of the tasks that had labels."""
        for task, loss in losses.items():
            self.losses[task] = self.losses.get(task, 0.0) + loss
            self.steps[task] = self.steps.get(task, 0) + 1
        self.waited_s += waited_s
        self.spent_s += spent_s

    def means(self) -> dict[str, float]:
        """The mean losses over the steps so far that had labels of each."""
        return {task: total / self.steps[task] for task, total in self.losses.items()}
