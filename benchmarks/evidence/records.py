"""What the queue leaves behind: one small JSON file for each run, finished or failed."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgemtl.core.errors import DataError
from edgemtl.core.files import json_bytes, replacing
from edgemtl.core.report import MetricInfo

RESULTS = Path(__file__).parent / "results"


class Cost(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a run took. ``step_ms`` is a training step without waiting for data, the median over the epochs,
    measured beside the other runs of the queue. ``peak_device_mib`` is None where no accelerator trained.
    ``parameters`` and ``macs`` are (while training, deployed), ``macs`` those of one image.
    """

    train_s: float
    step_ms: float
    peak_rss_mib: float
    peak_device_mib: float | None
    parameters: tuple[int, int]
    macs: tuple[int, int]


class Made(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a run was made with; ``processes`` ran beside each other, each on ``threads`` threads.
    ``bf16_emulated`` is whether fp32 stood in for bf16 (bf16.py).
    """

    platform: str
    processes: int
    threads: int
    bf16_emulated: bool = False
    versions: dict[str, str]


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="outcome"):
    """A run of the queue. ``overrides`` of ``recipe`` say what it was: a grid that asks for others asks for
    another run.
    """

    name: str
    recipe: str
    overrides: tuple[str, ...]


class Finished(Record, frozen=True, kw_only=True, tag="finished"):
    """A run that came to its end. ``scores`` are those of the collapsed network on so many ``images`` of
    ``split``, ``worst`` its largest relative error against the trained one, by precision. ``recipe_sha256``
    is that of the resolved recipe, less the place of the data.
    """

    seed: int
    recipe_sha256: str
    split: str
    images: int
    scores: dict[str, dict[str, float]]
    metrics: dict[str, tuple[MetricInfo, ...]]
    worst: dict[str, float]
    cost: Cost
    made: Made


class Failed(Record, frozen=True, kw_only=True, tag="failed"):
    """A run that diverged or broke, with the line that says why. Delete its file to have it tried again."""

    error: str


Outcome = Finished | Failed
_DECODER: msgspec.json.Decoder[Outcome] = msgspec.json.Decoder(Finished | Failed)


def folder_of(grid: str) -> Path:
    """Where all that is found of a grid lies."""
    return RESULTS / grid


def path_of(grid: str, name: str) -> Path:
    """The file of a run."""
    return folder_of(grid) / "runs" / f"{name}.json"


def read_all(grid: str) -> dict[str, Outcome]:
    """Every run of a grid, by name.

    Raises:
        DataError: a file is damaged.
    """
    return {path.stem: _read(path) for path in sorted((folder_of(grid) / "runs").glob("*.json"))}


def write(path: Path, record: Outcome) -> None:
    """Write the file of a run, as a whole."""
    with replacing(path) as draft:
        draft.write_bytes(json_bytes(record))


def _read(path: Path) -> Outcome:
    try:
        return _DECODER.decode(path.read_bytes())
    except msgspec.DecodeError as error:
        raise DataError(
            path, expected="the record of a run", found=str(error), fix="Delete it to run it again."
        ) from error
