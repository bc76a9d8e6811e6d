"""A collapsed network as ONNX files: PyTorch exports it once, with all tensors between its parts as outputs,
and every file is cut from that graph.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import onnxsim
import torch
from onnx import ModelProto, version_converter
from onnxscript import optimizer
from torch import Tensor, nn

from edgemtl.backbones.base import IMAGE
from edgemtl.core.bundle import ModelFile, TensorInfo
from edgemtl.core.errors import GateError, UsageError, first_line
from edgemtl.export.cuts import Cut, cuts
from edgemtl.export.evaluate import evaluator
from edgemtl.export.graph import Array, edges, extract
from edgemtl.model import MultitaskModel, macs_of, parameters_of

_SAME = 1e-6  # relative difference up to which a simplified file counts as the same
_CLOSE = 1e-3  # and a file as computing what its part of the network does
_OLDEST = 18  # the opset that PyTorch writes at least


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
        UsageError: PyTorch cannot export the network, or finds that it fixes a batch that is to be free; or a
            task is named like a tensor inside.
        GateError: a file computes something else than the network.
    """
    whole = _Whole(model, list(cuts(model, "split", size)))
    image = torch.rand(batch[1], 3, *size)
    graph = _export(whole, image, batch, opset)
    passed = [whole.tensors(image[:count]) for count in dict.fromkeys((1, *batch))]
    return {
        layout: tuple(_write(cut, graph, folder, passed, batch, opset) for cut in cuts(model, layout, size))
        for layout in layouts
    }


def _export(whole: _Whole, image: Tensor, batch: tuple[int, int], opset: int) -> ModelProto:
    """The graph that all files are cut from; optimizing it would join what lies on both sides of a cut."""
    free = batch[0] != batch[1]
    axis = torch.export.Dim("batch", min=batch[0], max=batch[1]) if free else None
    try:
        with _quiet():
            program = torch.onnx.export(
                whole,
                (image,),
                dynamo=True,
                input_names=[IMAGE],
                output_names=list(whole.writes),
                dynamic_shapes=({0: axis},) if free else None,
                opset_version=max(opset, _OLDEST),
                optimize=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise UsageError(
            "network",
            expected="one that PyTorch can export",
            found=first_line(error.__cause__ or error),
            fix="Its traceback, with --debug, names the line; replace what depends on values there.",
        ) from error
    graph = cast(torch.onnx.ONNXProgram, program).model_proto
    _check_graph(graph, batch)
    return graph


def _check_graph(graph: ModelProto, batch: tuple[int, int]) -> None:
    """That every name is of one tensor, and a free batch the first axis of all that enters or leaves."""
    names = Counter(name for node in graph.graph.node for name in node.output)
    for name in (info.name for info in graph.graph.output if names[info.name] > 1):
        raise UsageError(
            f"task `{name}`",
            expected="a name that no tensor inside the exported network has",
            found=f"`{name}`",
            fix="Rename the task.",
        )
    if batch[0] == batch[1]:
        return
    infos = (*graph.graph.input, *graph.graph.output)
    first = {info.name: info.type.tensor_type.shape.dim[:1] for info in infos}
    axes = {name: axis[0].dim_param if axis else "" for name, axis in first.items()}
    for name, axis in axes.items():
        if not axis or axis != axes[IMAGE]:
            raise UsageError(
                name,
                expected=f"a first axis of {batch[0]} to {batch[1]} images",
                found="one that PyTorch finds to be another",
                fix="Export for one batch size; or ask x.shape[0], not len(x), and keep the batch first.",
            )


def _write(
    cut: Cut,
    graph: ModelProto,
    folder: Path,
    passed: Sequence[Mapping[str, Tensor]],
    batch: tuple[int, int],
    opset: int,
) -> ModelFile:
    """Write one file, cut out of the graph of all, and try it on what ``passed``: for one image, then for the
    least and the greatest batch.
    """
    path = folder / f"{cut.name}.onnx"
    feeds = {name: passed[-1][name] for name in cut.reads}
    model = optimizer.optimize(extract(graph, edges(graph, cut.name, cut.reads, cut.writes)))
    model = _simplified(_lowered(model, opset), feeds)
    compute = evaluator(model)
    for tensors in passed[batch[0] > 1 :]:
        found = compute({name: tensors[name].numpy() for name in cut.reads})
        _check_outputs(cut, found, tensors)
    onnx.save(model, path)
    free = batch[0] != batch[1]
    return ModelFile(
        name=cut.name,
        path=path.name,
        tasks=cut.tasks,
        inputs=_infos(cut.reads, passed[-1], free),
        outputs=_infos(cut.writes, passed[-1], free),
        parameters=parameters_of(cut.module),
        macs=macs_of(cut.module, *(passed[0][name].clone() for name in cut.reads)),
        channels=max((m.out_channels for m in cut.module.modules() if isinstance(m, nn.Conv2d)), default=0),
    )


def _lowered(model: ModelProto, opset: int) -> ModelProto:
    """A file of an older opset; as it was, where an operator is not in that."""
    try:
        return version_converter.convert_version(model, opset) if opset < _OLDEST else model
    except RuntimeError:
        return model


def _check_outputs(cut: Cut, found: Mapping[str, Array], tensors: Mapping[str, Tensor]) -> None:
    """That a file computes what its part of the network does.

    Raises:
        GateError: it does not.
    """
    for name in cut.writes:
        expected = tensors[name].numpy().astype(np.float64)
        error = np.abs(found[name] - expected).max()
        if not error <= _CLOSE * max(np.abs(expected).max(), 1):
            raise GateError(
                f"{cut.name}.onnx {name}",
                expected="what the network computes",
                found=f"up to {error:.2g} beside it",
                fix="This is a fault of the exporter or of edgemtl: please report it.",
            )


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
    """Without the exporters' warnings, which are about their own parts (torchvision that is not there)."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class _Whole(nn.Module):
    """The parts one after the other: image -> all that they write."""

    def __init__(self, model: MultitaskModel, parts: Sequence[Cut]) -> None:
        super().__init__()
        self.model = model  # whose names the weights of the files have
        self.writes = tuple(name for part in parts for name in part.writes)
        self._parts = tuple(parts)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Tensors between parts are copies: each name is a value of its own, whatever parts do with them."""
        tensors = {IMAGE: image}
        for part in self._parts:
            written = part.module(*(tensors[name].clone() for name in part.reads))
            tensors.update(zip(part.writes, (tensor.clone() for tensor in written), strict=True))
        return tuple(tensors[name] for name in self.writes)

    @torch.no_grad()
    def tensors(self, image: Tensor) -> dict[str, Tensor]:
        """The image and all that the parts write of it, by name."""
        return {IMAGE: image, **dict(zip(self.writes, self(image), strict=True))}


def _infos(names: Sequence[str], tensors: Mapping[str, Tensor], free: bool) -> tuple[TensorInfo, ...]:
    shapes = {name: tuple(tensors[name].shape) for name in names}
    return tuple(
        TensorInfo(name, (-1, *shape[1:]) if free else shape, str(tensors[name].dtype).removeprefix("torch."))
        for name, shape in shapes.items()
    )
