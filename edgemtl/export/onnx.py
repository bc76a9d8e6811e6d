"""A collapsed network as ONNX files, cut along its sharing plan.

``merged`` is one file; ``split`` is a file for each segment and each head. A segment reads the image or
features of the segments above it, and writes the features that something below it reads. PyTorch exports the
network once, with all these tensors as outputs; every file is cut from that graph.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import onnx
import onnxsim
import torch
from onnx import ModelProto
from torch import Tensor, nn

from edgemtl.backbones.base import IMAGE
from edgemtl.core.bundle import ModelFile, TensorInfo
from edgemtl.core.errors import UsageError
from edgemtl.core.plan import Segment
from edgemtl.export.evaluate import evaluator
from edgemtl.export.graph import edges, extract
from edgemtl.model import MultitaskModel, macs_of, parameters_of

_SAME = 1e-6  # relative difference up to which a simplified file counts as the same


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


def write_models(
    model: MultitaskModel,
    folder: Path,
    *,
    layouts: Sequence[str],
    size: tuple[int, int],
    batch: tuple[int, int],
    opset: int,
) -> dict[str, tuple[ModelFile, ...]]:
    """Write the ONNX files of each layout into ``folder`` and describe them.

    Args:
        model: a collapsed network in eval mode.
        size: (height, width) of the image.
        batch: (smallest, largest); a free axis if they differ.
        opset: of ONNX; below 18 only if the network can be converted down from there.

    Raises:
        UsageError: the batch is free, and PyTorch finds that the network fixes it.
    """
    whole = _Whole(model, list(cuts(model, "split", size)))
    image = torch.rand(batch[1], 3, *size)
    with torch.no_grad():
        tensors = {IMAGE: image, **dict(zip(whole.writes, whole(image), strict=True))}
    graph = _export(whole, image, batch, opset)
    return {
        layout: tuple(_write(cut, graph, folder, tensors, batch) for cut in cuts(model, layout, size))
        for layout in layouts
    }


def _export(whole: _Whole, image: Tensor, batch: tuple[int, int], opset: int) -> ModelProto:
    """The graph that all files are cut from."""
    free = batch[0] != batch[1]
    axis = torch.export.Dim("batch", min=batch[0], max=batch[1]) if free else None
    with _quiet():
        program = torch.onnx.export(
            whole,
            (image,),
            dynamo=True,
            input_names=[IMAGE],
            output_names=list(whole.writes),
            dynamic_shapes=({0: axis},) if free else None,
            opset_version=opset,
            verbose=False,
        )
    graph = cast(torch.onnx.ONNXProgram, program).model_proto
    if free and not graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        raise UsageError(
            "batch",
            expected=f"a network that takes batches of {batch[0]} to {batch[1]}",
            found=f"one that takes {batch[1]} alone",
            fix="Export for one batch size, or let its modules ask x.shape[0], not len(x).",
        )
    return graph


def _write(
    cut: Cut, graph: ModelProto, folder: Path, tensors: Mapping[str, Tensor], batch: tuple[int, int]
) -> ModelFile:
    """Write one file, cut out of the graph of all."""
    inputs, outputs = _read(cut, tensors), tuple(tensors[name] for name in cut.writes)
    path = folder / f"{cut.name}.onnx"
    model = extract(graph, edges(graph, cut.name, cut.reads, cut.writes))
    onnx.save(_simplified(model, dict(zip(cut.reads, inputs, strict=True))), path)
    size = -1 if batch[0] != batch[1] else batch[1]
    return ModelFile(
        name=cut.name,
        path=path.name,
        tasks=cut.tasks,
        inputs=_infos(cut.reads, inputs, size),
        outputs=_infos(cut.writes, outputs, size),
        parameters=parameters_of(cut.module),
        macs=macs_of(cut.module, *(tensor[:1] for tensor in inputs)),
        channels=max((m.out_channels for m in cut.module.modules() if isinstance(m, nn.Conv2d)), default=0),
    )


def _read(cut: Cut, tensors: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    return tuple(tensors[name] for name in cut.reads)


def _simplified(original: ModelProto, feeds: Mapping[str, Tensor]) -> ModelProto:
    """A file simplified by onnxsim; as it was, unless that is smaller and computes the same."""
    simplified, checked = onnxsim.simplify(original)
    if not checked or len(simplified.graph.node) >= len(original.graph.node):
        return original
    arrays = {name: tensor.numpy() for name, tensor in feeds.items()}
    expected, found = (evaluator(model)(arrays) for model in (original, simplified))
    same = all(np.abs(found[name] - a).max() <= _SAME * np.abs(a).max() for name, a in expected.items())
    return simplified if same else original


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's warnings, which are about its own parts (torchvision that is not there)."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


class _Whole(nn.Module):
    """The parts one after the other: image -> all that they write."""

    def __init__(self, model: MultitaskModel, parts: Sequence[Cut]) -> None:
        super().__init__()
        self.model = model  # whose names the weights of the files have
        self.writes = tuple(name for part in parts for name in part.writes)
        self._parts = tuple(parts)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        tensors = {IMAGE: image}
        for part in self._parts:
            tensors.update(zip(part.writes, part.module(*_read(part, tensors)), strict=True))
        return tuple(tensors[name] for name in self.writes)


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


def _infos(names: tuple[str, ...], tensors: Sequence[Tensor], batch: int) -> tuple[TensorInfo, ...]:
    return tuple(
        TensorInfo(name, (batch, *tensor.shape[1:]), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in zip(names, tensors, strict=True)
    )
