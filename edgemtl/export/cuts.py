"""How a network is cut along its sharing plan: the parts that become files.

The layout ``merged`` is one part; ``split`` has a part for each segment and each head. A segment reads the
image or features of the segments above it, and writes the features that something below it reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, nn

from edgemtl.backbones.base import IMAGE
from edgemtl.core.plan import Segment
from edgemtl.model import MultitaskModel


class Cut(NamedTuple):
    """A part of a network that becomes a file: a module over the tensors ``reads`` that writes ``writes``."""

    name: str
    module: nn.Module
    tasks: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]


def cuts(model: MultitaskModel, layout: str, size: tuple[int, int]) -> Iterator[Cut]:
    """The parts of a layout, in the order in which they run."""
    if layout == "merged":
        yield Cut("merged", _Merged(model), model.plan.tasks, (IMAGE,), model.plan.tasks)
        return
    last = model.blueprint[-1].name
    for segment in model.tree:
        reads = tuple(_reads(model, segment))
        below = [other for other in model.tree if other != segment and segment in model.plan.path(other)]
        wanted = {name for other in below for name in _reads(model, other)}
        wanted |= {last} if segment.name in model.leaf.values() else set()
        writes = tuple(name for name in _writes(model, segment) if name in wanted)
        yield Cut(
            segment.name,
            _SegmentPart(model, segment, reads, writes),
            segment.group,
            tuple(_tensor(model, segment, name) for name in reads),
            tuple(f"{segment.name}.{name}" for name in writes),
        )
    for task in model.plan.tasks:
        feature = f"{model.leaf[task]}.{last}"
        yield Cut(f"head_{task}", _HeadPart(model, task, size), (task,), (feature,), (task,))


class _Merged(nn.Module):
    def __init__(self, model: MultitaskModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, *features: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model(*features).values())


class _SegmentPart(nn.Module):
    def __init__(
        self, model: MultitaskModel, segment: Segment, reads: tuple[str, ...], writes: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.stages = model.segment(segment.name)  # so that its parameters count
        self._run, self._segment, self._reads, self._writes = model.run_segment, segment, reads, writes

    def forward(self, *features: Tensor) -> tuple[Tensor, ...]:
        known = self._run(self._segment, dict(zip(self._reads, features, strict=True)))
        return tuple(known[name] for name in self._writes)


class _HeadPart(nn.Module):
    def __init__(self, model: MultitaskModel, task: str, size: tuple[int, int]) -> None:
        super().__init__()
        self.head, self._size = model.heads[task], size

    def forward(self, *features: Tensor) -> tuple[Tensor, ...]:
        return (self.head(*features, self._size),)


def _writes(model: MultitaskModel, segment: Segment) -> list[str]:
    return [name for stage in model.blueprint if stage.name in segment.stages for name in stage.writes]


def _reads(model: MultitaskModel, segment: Segment) -> list[str]:
    """What a segment needs from above, each once, in the order of need."""
    own = _writes(model, segment)
    names = [name for stage in model.blueprint if stage.name in segment.stages for name in stage.reads]
    return [name for name in dict.fromkeys(names) if name not in own]


def _tensor(model: MultitaskModel, segment: Segment, feature: str) -> str:
    """The name in the bundle of a feature that a segment reads: the image, or that of its nearest writer."""
    above = model.plan.path(segment)[:-1]
    return next((f"{s.name}.{feature}" for s in reversed(above) if feature in _writes(model, s)), feature)
