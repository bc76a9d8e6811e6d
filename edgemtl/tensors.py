"""Tensors in files. A file with code in it is refused, never executed."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from edgemtl.core.errors import DataError, first_line
from edgemtl.core.files import replacing


def read_tensors(path: Path, *, fix: str | None = None) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a torch file that holds nothing but tensors. ``fix`` is what
    to do about a file that is missing or none, as the error says it.

    Raises:
        DataError: the file is missing, damaged, or a pickle with code in it.
    """
    if not path.is_file():
        missing = fix or "Check the path."
        raise DataError(path, expected="a file of tensors", found="no such file", fix=missing)
    advice = "Save the state dict with safetensors; code in a file is never executed."
    found = load_without_code(path, "tensors alone", fix or advice)
    # Training scripts often wrap the weights together with an epoch and an optimizer.
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise DataError(
            path, expected="names with tensors", found=type(found).__name__, fix="Save a plain state dict."
        )
    return {str(name): value for name, value in found.items()}


def load_without_code(path: Path, expected: str, fix: str) -> object:
    """What a .safetensors or torch file holds, on the CPU.

    Raises:
        DataError: it is damaged, or a pickle with code in it; ``expected`` and ``fix`` are for its message.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the pickle protocol: what matters of it is an error
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make torch raise anything, an IndexError for example
        refused = isinstance(error, pickle.UnpicklingError)
        found = "code or damage" if refused else first_line(error)
        raise DataError(path, expected=expected, found=found, fix=fix) from error


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors, with ``metadata``; one that has several names is written under each.

    Raises:
        SetupError: the file cannot be written; what stood there stays.
    """
    apart = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as draft:
        draft.write_bytes(safetensors.torch.save(apart, metadata))
