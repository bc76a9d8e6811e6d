"""Checkpoints: all that a resumed run needs, in one file that is replaced as a whole."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import msgspec
import torch

from edgemtl.core.errors import DataError
from edgemtl.core.files import replacing
from edgemtl.tensors import load_without_code

FORMAT = 1
STATE = "state.pt"


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """The state after ``step`` optimizer steps. Batches, augmentation and schedule are functions of the seed
    and the step, so none of their state is here.
    """

    step: int
    elapsed_s: float
    best: float
    model: dict[str, Any]
    optimizer: dict[str, Any]
    balancer: dict[str, Any]
    adaptors: dict[str, Any] = {}
    scaler: dict[str, Any]
    average: dict[str, Any] | None
    random: torch.Tensor
    random_cuda: torch.Tensor | None = None
    epoch: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write the checkpoint; the one before stays until this one is whole."""
        # Through memory, because torch reports a full disk as a RuntimeError of its archive.
        archive = io.BytesIO()
        torch.save({"format": FORMAT, **msgspec.structs.asdict(self)}, archive)
        with replacing(path) as draft:
            draft.write_bytes(archive.getbuffer())

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read a checkpoint. Code in it is refused, never executed.

        Raises:
            DataError: there is none, or it is damaged, of another version, or holds code.
        """
        if not path.is_file():
            raise DataError(
                path, expected="a checkpoint to resume from", found="none", fix="Train without --resume."
            )
        found = load_without_code(
            path,
            "a checkpoint that edgemtl wrote",
            "Nothing in it was executed: train again without --resume.",
        )
        written = found.pop("format", None) if isinstance(found, dict) else None
        if written != FORMAT:
            raise DataError(
                path,
                expected=f"checkpoint format {FORMAT}",
                found=f"format {written}",
                fix="Resume with the version of edgemtl that started this run.",
            )
        try:
            return msgspec.convert(found, cls)
        except msgspec.ValidationError as error:
            raise DataError(
                path,
                expected="a checkpoint that edgemtl wrote",
                found=str(error),
                fix="Train again without --resume.",
            ) from error
