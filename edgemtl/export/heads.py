"""Heads that read one feature, once more as one file, for runs that want all of them.

A file for each head lets a run leave heads out. But at each border between files ONNX Runtime converts its
blocked layout, and convolutions of different files cannot become one (``siblings``): with a file a head, the
compact network takes 1.10 times what the merged file takes, with one file of all heads .98 to 1.04, by how
many classes there are (benchmarks/bundles.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx

from edgemtl.core.bundle import ModelFile
from edgemtl.export.graph import join
from edgemtl.runtime.ort import BLOCK


def join_heads(folder: Path, split: Sequence[ModelFile]) -> tuple[ModelFile, ...]:
    """Write a file for each feature of ``folder`` that two or more heads read, beside those of the heads.

    ``split``: the files of the split layout, of which a head writes its task.
    """
    by_feature: dict[str, list[ModelFile]] = {}
    for file in split:
        if file.outputs[0].name in file.tasks:
            by_feature.setdefault(file.inputs[0].name, []).append(file)
    return tuple(_join(folder, feature, heads) for feature, heads in by_feature.items() if len(heads) > 1)


def _join(folder: Path, feature: str, heads: Sequence[ModelFile]) -> ModelFile:
    tasks = tuple(task for head in heads for task in head.tasks)
    name = f"heads_{feature.partition('.')[0]}"
    joined = join({head.name: onnx.load(folder / head.path) for head in heads}, tasks)
    onnx.save(joined, folder / f"{name}.onnx")
    return ModelFile(
        name=name,
        path=f"{name}.onnx",
        tasks=tasks,
        inputs=heads[0].inputs,
        outputs=tuple(tensor for head in heads for tensor in head.outputs),
        parameters=sum(head.parameters for head in heads),
        macs=sum(head.macs for head in heads),
        channels=_widest([head.channels for head in heads]),
        joins=tuple(head.name for head in heads),
    )


def _widest(channels: Sequence[int]) -> int:
    """Of the convolutions that heads of so many channels become: as siblings one, but for those that fill
    their blocks."""
    return max(sum(each for each in channels if each % BLOCK), *channels)
