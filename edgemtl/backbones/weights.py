"""Pretrained weights: which tensor of a file belongs where in the stages of a backbone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from edgemtl.core.errors import DataError, nearest
from edgemtl.tensors import read_tensors

# What DataParallel, torch.compile and the training loops of others put before the names of a network.
_WRAPPERS = ("module.", "_orig_mod.", "model.", "backbone.")


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
        DataError: no tensor of the file belongs to these modules, or one has another shape or is not finite.
    """
    targets = {
        f"{stage}.{key}": value
        for stage, module in modules.items()
        for key, value in module.state_dict().items()
    }
    filled, unused = [], []
    for name, value in read_tensors(path).items():
        keys = [stage_key(bare) for bare in _unwrapped(name)]
        if None in keys:
            continue
        key = next((key for key in keys if key in targets), None)
        if key is None:
            unused.append(name)
            continue
        _check_fits(value, targets[key], f"{path}: {name}", key)
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


def _check_fits(value: Tensor, target: Tensor, where: str, key: str) -> None:
    if target.shape != value.shape:
        raise DataError(
            where,
            expected=f"shape {list(target.shape)} for {key}",
            found=str(list(value.shape)),
            fix="Use the weights of this architecture and width.",
        )
    if not value.isfinite().all():
        raise DataError(where, expected="finite numbers", found="others", fix="Use other weights.")


def _unwrapped(name: str) -> Iterator[str]:
    """The name as it is, and without one wrapper after the other."""
    yield name
    for wrapper in _WRAPPERS:
        if name.startswith(wrapper):
            yield from _unwrapped(name.removeprefix(wrapper))
