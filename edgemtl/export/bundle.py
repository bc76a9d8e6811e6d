"""A bundle from a collapsed network: ONNX files, golden samples, manifest and hashes, in a folder that
appears as a whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

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
from edgemtl.core.report import Scores, timestamp
from edgemtl.export.budget import parse_budget
from edgemtl.export.graph import Array
from edgemtl.export.jetson import write_device_files
from edgemtl.export.onnx import write_models
from edgemtl.export.operators import check_model
from edgemtl.export.precision import Lowering, Material, Outcome, check_lowering, check_written, lower
from edgemtl.export.refusals import check_dla, check_opset, check_precision
from edgemtl.export.targets import Device, Precision, devices, newest_opset
from edgemtl.model import MultitaskModel

GOLDEN_INPUTS, GOLDEN_OUTPUTS = "golden/inputs.npz", "golden/outputs.npz"
Layout = Literal["merged", "split"]


class Export(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to export. What the target cannot run is refused here, so before anything is written.

    ``jetpack``: without it a bundle suits every JetPack of its target. ``batch``: (smallest, largest); equal
    for a static batch. ``opset``: by default the newest up to 18 that the target reads. ``atol``, ``rtol``:
    how far a runtime may be from the golden outputs. They leave room for a GPU without TF32; a CPU stays a
    hundred times closer.

    Raises:
        RecipeError: a value is out of range, or the target cannot run it; says what would work.
    """

    target: str = "onnx"
    jetpack: str = ""
    precision: Precision = "fp32"
    lowering: Lowering = Lowering()
    layouts: Annotated[tuple[Layout, ...], msgspec.Meta(min_length=1)] = ("merged", "split")
    batch: tuple[int, int] = (1, 1)
    opset: Annotated[int, msgspec.Meta(ge=17, le=23)] | None = None
    dla: bool = False
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
        check_precision(self.devices, self.precision)
        if self.dla:
            check_dla(self.devices, self.precision, self.batch)
        if self.opset is not None:
            check_opset(self.devices, self.opset)
        check_written(self.precision)

    @property
    def devices(self) -> tuple[Device, ...]:
        """The devices that the bundle has to suit."""
        return devices(self.target, self.jetpack)

    @property
    def newest_opset(self) -> int:
        """The opset that is written."""
        return newest_opset(self.devices, 18) if self.opset is None else self.opset

    @property
    def label(self) -> str:
        """The name of the bundle's folder: what distinguishes it from others of the same run."""
        return "-".join(filter(None, (self.target, self.jetpack, self.precision, "dla" if self.dla else "")))


def write_bundle(
    collapsed: CollapsedModel,
    folder: Path,
    *,
    name: str,
    images: Tensor,
    spec: Export | None = None,
    accuracy: Scores | None = None,
    split: str = "",
    material: Material | None = None,
) -> Manifest:
    """Write a bundle; what stood in ``folder`` is replaced once the new one is whole.

    Args:
        collapsed: the network with its certificate.
        name: what the bundle is called in reports.
        images: [N, 3, H, W], RGB in 0..1: the golden inputs, and the size that the bundle takes.
        accuracy: metrics of the network by task, measured on ``split``.
        material: what lower precision needs: int8 does not go without, and fp16 is not measured without.

    Raises:
        GateError: the certificate is not good, or the network cannot be lowered within its budget.
        RecipeError: the target lacks an operator of the network, or it does not fit an opset as old.
        SetupError: the folder cannot be written.
    """
    spec = spec or Export()
    collapsed.certificate.check()
    model, (height, width) = collapsed.model, (images.shape[-2], images.shape[-1])
    material = material or Material()
    if spec.precision != "fp32":
        parts = [*(segment.name for segment in model.tree), *(f"head_{task}" for task in model.plan.tasks)]
        metrics = {task: model.tasks[task].metrics for task in model.plan.tasks}
        check_lowering(spec.precision, spec.lowering, parts, metrics, material)
    with replacing(folder) as draft:
        (draft / "golden").mkdir(parents=True)
        np.savez(draft / GOLDEN_INPUTS, image=images.numpy())
        layouts = write_models(
            model,
            draft,
            layouts=spec.layouts,
            size=(height, width),
            batch=spec.batch,
            opset=spec.newest_opset,
        )
        for path in sorted(draft.glob("*.onnx")):
            check_model(spec.devices, path, spec.newest_opset)
        lowered = None
        if spec.precision != "fp32":
            lowered = _lower(model, draft, layouts, spec, images, material)
        outputs: dict[str, Any] = dict(lowered.outputs if lowered else _outputs(model, images))
        np.savez(draft / GOLDEN_OUTPUTS, **outputs)
        atol = max([spec.atol, *(lowered.atol.values() if lowered else ())])
        manifest = Manifest(
            name=name,
            created=timestamp(),
            target=spec.target,
            precision=spec.precision,
            opset=spec.newest_opset,
            input=InputInfo(height, width, spec.batch),
            tasks=_task_infos(model, layouts, accuracy or {}, split, lowered, spec.atol),
            plan=model.plan,
            layouts=layouts,
            golden=Golden(GOLDEN_INPUTS, GOLDEN_OUTPUTS, len(images), atol, spec.rtol),
            certificate=collapsed.certificate.worst,
            versions=_versions(),
            files={},
            lowered=lowered.report if lowered else None,
        )
        if spec.devices:
            write_device_files(draft, manifest, spec.devices, dla=spec.dla)
        files = {
            path.relative_to(draft).as_posix(): sha256(path)
            for path in sorted(draft.rglob("*"))
            if path.is_file()
        }
        manifest = msgspec.structs.replace(manifest, files=files)
        write_manifest(draft, manifest)
    return manifest


def _lower(
    model: MultitaskModel,
    draft: Path,
    layouts: Mapping[str, tuple[ModelFile, ...]],
    spec: Export,
    images: Tensor,
    material: Material,
) -> Outcome:
    """Replace the files in ``draft``, starting from the split layout, which is written aside if need be."""
    size = images.shape[-2], images.shape[-1]
    with tempfile.TemporaryDirectory() as temporary:
        folder, split = draft, layouts.get("split")
        if split is None:
            folder = Path(temporary)
            split = write_models(
                model, folder, layouts=("split",), size=size, batch=spec.batch, opset=spec.newest_opset
            )["split"]
        parts = {file.name: onnx.load(folder / file.path) for file in split}
    return lower(
        parts,
        [file for files in layouts.values() for file in files],
        draft,
        precision=spec.precision,
        spec=spec.lowering,
        tensorrt=bool(spec.devices),
        macs={file.name: file.macs for file in split},
        metrics={task: model.tasks[task].metrics for task in model.plan.tasks},
        golden=images.numpy(),
        material=material,
    )


@torch.no_grad()
def _outputs(model: MultitaskModel, images: Tensor) -> dict[str, Array]:
    return {task: output.numpy() for task, output in model(images).items()}


def _task_infos(
    model: MultitaskModel,
    layouts: Mapping[str, tuple[ModelFile, ...]],
    accuracy: Scores,
    split: str,
    lowered: Outcome | None,
    atol: float,
) -> dict[str, TaskInfo]:
    infos = {}
    for task in model.plan.tasks:
        infos[task] = info = TaskInfo(
            _tensor_of(layouts, task),
            model.tasks[task].output,
            model.tasks[task].metrics,
            dict(accuracy.get(task, {})),
            split if accuracy else "",
        )
        if lowered:
            infos[task] = msgspec.structs.replace(
                info,
                accuracy=dict(lowered.scores.get(task, {})),
                accuracy_fp32=info.accuracy,
                atol=max(atol, lowered.atol[task]),
            )
    return infos


def _versions() -> dict[str, str]:
    modules = onnx, onnxsim, onnxruntime
    numbers = {"edgemtl": __version__, "torch": str(torch.__version__)}
    return numbers | {module.__name__: module.__version__ for module in modules}


def _tensor_of(layouts: Mapping[str, tuple[ModelFile, ...]], task: str) -> TensorInfo:
    tensors = (tensor for files in layouts.values() for file in files for tensor in file.outputs)
    return next(tensor for tensor in tensors if tensor.name == task)


def parse_export(
    *,
    target: str,
    jetpack: str = "",
    precision: str = "fp32",
    layouts: str,
    batch: str,
    opset: int | None = None,
    dla: bool = False,
    lowering: Mapping[str, object] = MappingProxyType({}),
    keep: Sequence[str] = (),
    budget: Sequence[str] = (),
) -> Export:
    """The spec that a command line gives: layouts with commas, and a batch or two with a comma.

    ``keep`` is as NAME=PRECISION, ``budget`` as ``parse_budget`` reads it, ``lowering`` the other fields of
    ``Lowering``, None for their default.

    Raises:
        RecipeError: a value is none of the known, out of range, or nothing that the target can run.
    """
    first, _, last = batch.partition(",")
    given = {name: value for name, value in lowering.items() if value is not None}
    tree = {
        "target": target,
        "jetpack": jetpack,
        "precision": precision,
        "layouts": layouts.split(","),
        "batch": (first, last or first),
        "opset": opset,
        "dla": dla,
        "lowering": {**given, "keep": _parse_keep(keep), "budget": parse_budget(budget)},
    }
    try:
        return msgspec.convert(tree, Export, strict=False)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at ")
        raise RecipeError(
            f"export {where.strip('`')}",
            expected="a value that `edgemtl export --help` names",
            found=message,
            fix="For example --target jetson-orin-nano --jetpack 6.2 --layout merged,split --batch 1,8.",
        ) from error


def _parse_keep(texts: Sequence[str]) -> dict[str, str]:
    for text in texts:
        if "=" not in text:
            raise RecipeError(
                f"--keep {text}",
                expected="NAME=PRECISION, with a task or a segment for a name",
                found=f"`{text}`",
                fix="For example --keep depth=fp16.",
            )
    return dict(text.split("=", 1) for text in texts)
