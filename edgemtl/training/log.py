"""metrics.jsonl: what training found, a record an epoch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
