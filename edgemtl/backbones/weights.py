"""Pretrained weights from a file. A file with code in it is refused, never executed."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from edgemtl.core.errors import DataError, nearest


class Loaded(NamedTuple):
    """Which tensors of the modules a file filled, and which tensors of the file nothing took."""

    filled: tuple[str, ...]
    unfilled: tuple[str, ...]
    unused: tuple[str, ...]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a torch file that holds nothing but tensors.

    Raises:
        DataError: the file is missing, damaged, or a pickle with code in it.
    """
    if not path.is_file():
        raise DataError(path, expected="a weights file", found="no such file", fix="Check the path.")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make torch raise anything, an IndexError for example
        refused = isinstance(error, pickle.UnpicklingError)
        raise DataError(
            path,
            expected="tensors alone",
            found="code or damage" if refused else str(error).partition("\n")[0] or type(error).__name__,
            fix="Save the state dict with safetensors; code in a file is never executed.",
        ) from error
    # Training scripts often wrap the weights together with an epoch and an optimizer.
    for key in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise DataError(
            path, expected="names with tensors", found=type(found).__name__, fix="Save a plain state dict."
        )
    return {str(name): value for name, value in found.items()}


def load_weights(
    modules: Mapping[str, nn.Module], path: Path, stage_key: Callable[[str], str | None]
) -> Loaded:
    """Fill the modules of stages, by stage name, from a file.

    Raises:
        DataError: no tensor of the file belongs to these modules, or one has another shape.
    """
    targets = {
        f"{stage}.{key}": value
        for stage, module in modules.items()
        for key, value in module.state_dict().items()
    }
    filled, unused = [], []
    for name, value in read_tensors(path).items():
        key = stage_key(name.removeprefix("module."))  # the prefix that DataParallel leaves
        if key is None:
            continue
        if key not in targets:
            unused.append(name)
            continue
        if targets[key].shape != value.shape:
            raise DataError(
                f"{path}: {name}",
                expected=f"shape {list(targets[key].shape)} for {key}",
                found=str(list(value.shape)),
                fix="Use the weights of this architecture and width.",
            )
        targets[key].copy_(value)
        filled.append(key)
    if not filled:
        first = unused[0] if unused else "none"
        raise DataError(
            path,
            expected="weights of this backbone",
            found=f"{len(unused)} others, the first `{first}`",
            fix=nearest(first, targets),
        )
    counters = [key for key in targets if key.endswith("num_batches_tracked")]
    return Loaded(tuple(filled), tuple(sorted(set(targets) - {*filled, *counters})), tuple(unused))
