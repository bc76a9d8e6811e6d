"""Pretrained weights: which tensor of a file belongs where in the stages of a backbone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import nn

from edgemtl.core.errors import DataError, nearest
from edgemtl.tensors import read_tensors


class Loaded(NamedTuple):
    """Which tensors of the modules a file filled, and which tensors of the file nothing took."""

    filled: tuple[str, ...]
    unfilled: tuple[str, ...]
    unused: tuple[str, ...]


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
