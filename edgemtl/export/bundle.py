"""A bundle from a collapsed network: ONNX files, golden samples, manifest and hashes, in a folder that
appears as a whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
import onnx
import onnxruntime
import onnxsim
import torch
from torch import Tensor

from edgemtl import __version__
from edgemtl.collapse import CollapsedModel
from edgemtl.core.bundle import (
    Golden,
    InputInfo,
    Manifest,
    ModelFile,
    TaskInfo,
    TensorInfo,
    sha256,
    write_manifest,
)
from edgemtl.core.errors import RecipeError
from edgemtl.core.files import replacing
from edgemtl.core.report import timestamp
from edgemtl.export.onnx import write_models

GOLDEN_INPUTS, GOLDEN_OUTPUTS = "golden/inputs.npz", "golden/outputs.npz"
Layout = Literal["merged", "split"]


class Export(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to export.

    ``batch``: (smallest, largest); equal for a static batch. ``atol`` and ``rtol``: how far a runtime may be
    from the golden outputs. They leave room for a GPU without TF32; a CPU stays a hundred times closer.
    """

    target: Literal["onnx"] = "onnx"
    layouts: Annotated[tuple[Layout, ...], msgspec.Meta(min_length=1)] = ("merged", "split")
    batch: tuple[int, int] = (1, 1)
    opset: Annotated[int, msgspec.Meta(ge=18, le=23)] = 18
    atol: Annotated[float, msgspec.Meta(gt=0)] = 1e-3
    rtol: Annotated[float, msgspec.Meta(ge=0)] = 1e-3

    def __post_init__(self) -> None:
        if not 1 <= self.batch[0] <= self.batch[1]:
            raise RecipeError(
                "$.export.batch",
                expected="smallest and largest batch, 1 or more, in this order",
                found=str(self.batch),
                fix="For example 1 for a static batch, or 1,8.",
            )


def write_bundle(
    collapsed: CollapsedModel,
    folder: Path,
    *,
    name: str,
    images: Tensor,
    spec: Export | None = None,
    accuracy: Mapping[str, Mapping[str, float]] | None = None,
    split: str = "",
) -> Manifest:
    """Write a bundle; what stood in ``folder`` is replaced once the new one is whole.

    Args:
        collapsed: the network with its certificate.
        name: what the bundle is called in reports.
        images: [N, 3, H, W], RGB in 0..1: the golden inputs, and the size that the bundle takes.
        accuracy: metrics of the network by task, measured on ``split``.

    Raises:
        GateError: the certificate is not good.
        SetupError: the folder cannot be written.
    """
    spec = spec or Export()
    collapsed.certificate.check()
    model, (height, width) = collapsed.model, (images.shape[-2], images.shape[-1])
    with torch.no_grad():
        golden = {task: output.numpy() for task, output in model(images).items()}
    with replacing(folder) as draft:
        (draft / "golden").mkdir(parents=True)
        np.savez(draft / GOLDEN_INPUTS, image=images.numpy())
        np.savez(draft / GOLDEN_OUTPUTS, **golden)
        layouts = write_models(
            model, draft, layouts=spec.layouts, size=(height, width), batch=spec.batch, opset=spec.opset
        )
        manifest = Manifest(
            name=name,
            created=timestamp(),
            target=spec.target,
            precision="fp32",
            opset=spec.opset,
            input=InputInfo(height, width, spec.batch),
            tasks={
                task: TaskInfo(
                    _tensor_of(layouts, task),
                    model.tasks[task].output,
                    model.tasks[task].metrics,
                    dict((accuracy or {}).get(task, {})),
                    split if accuracy else "",
                )
                for task in model.plan.tasks
            },
            plan=model.plan,
            layouts=layouts,
            golden=Golden(GOLDEN_INPUTS, GOLDEN_OUTPUTS, len(images), spec.atol, spec.rtol),
            certificate=collapsed.certificate.worst,
            versions={
                "edgemtl": __version__,
                "torch": str(torch.__version__),
                "onnx": onnx.__version__,
                "onnxsim": onnxsim.__version__,
                "onnxruntime": onnxruntime.__version__,
            },
            files={
                path.relative_to(draft).as_posix(): sha256(path)
                for path in sorted(draft.rglob("*"))
                if path.is_file()
            },
        )
        write_manifest(draft, manifest)
    return manifest


def _tensor_of(layouts: Mapping[str, tuple[ModelFile, ...]], task: str) -> TensorInfo:
    tensors = (tensor for files in layouts.values() for file in files for tensor in file.outputs)
    return next(tensor for tensor in tensors if tensor.name == task)


def parse_export(*, target: str, layouts: str, batch: str, opset: int) -> Export:
    """The spec that a command line gives: layouts with commas, and a batch or two with a comma.

    Raises:
        RecipeError: a value is none of the known, or out of range.
    """
    first, _, last = batch.partition(",")
    tree = {"target": target, "layouts": layouts.split(","), "batch": (first, last or first), "opset": opset}
    try:
        return msgspec.convert(tree, Export, strict=False)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at ")
        raise RecipeError(
            f"export {where.strip('`')}",
            expected="a value that `edgemtl export --help` names",
            found=message,
            fix="For example --target onnx --layout merged,split --batch 1,8 --opset 18.",
        ) from error
