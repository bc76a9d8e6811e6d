"""A bundle from a collapsed network: ONNX files, golden samples, manifest and hashes, in a folder that
appears as a whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    MANIFEST,
    SUMS,
    Golden,
    InputInfo,
    Manifest,
    ModelFile,
    TaskInfo,
    TensorInfo,
    sha256,
    write_manifest,
)
from edgemtl.core.errors import UsageError
from edgemtl.core.files import replacing
from edgemtl.core.report import Scores, timestamp
from edgemtl.export.graph import Array
from edgemtl.export.heads import join_heads
from edgemtl.export.jetson import write_device_files
from edgemtl.export.onnx import write_models
from edgemtl.export.operators import check_model
from edgemtl.export.precision import Material, Outcome, check_lowering, lower
from edgemtl.export.siblings import fuse_siblings
from edgemtl.export.spec import Export
from edgemtl.export.upsampling import gather_upsampling
from edgemtl.model import MultitaskModel

GOLDEN_INPUTS, GOLDEN_OUTPUTS = "golden/inputs.npz", "golden/outputs.npz"


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
    """Write a bundle; one that stood in ``folder`` is replaced once the new one is whole.

    Args:
        collapsed: the network with its certificate.
        name: what the bundle is called in reports.
        images: [N, 3, H, W], RGB in 0..1: the golden inputs, and the size that the bundle takes.
        accuracy: metrics of the network by task, measured on ``split``.
        material: what lower precision needs: int8 does not go without, and fp16 is not measured without.

    Raises:
        GateError: the certificate is not good, or the network cannot be lowered within its budget.
        UsageError: the target lacks an operator of the network, or it does not fit an opset as old; or
            something else than a bundle is in ``folder``.
        SetupError: the folder cannot be written.
    """
    spec, material = spec or Export(), material or Material()
    _check_free(folder)
    collapsed.certificate.check()
    model = collapsed.model
    if spec.precision != "fp32":
        parts = [*(segment.name for segment in model.tree), *(f"head_{task}" for task in model.plan.tasks)]
        metrics = {task: model.tasks[task].metrics for task in model.plan.tasks}
        check_lowering(spec.precision, spec.lowering, parts, metrics, material)
    with replacing(folder) as draft:
        (draft / "golden").mkdir(parents=True)
        np.savez(draft / GOLDEN_INPUTS, image=images.numpy())
        layouts, lowered = _write_files(model, draft, spec, images, material)
        outputs: dict[str, Any] = dict(lowered.outputs if lowered else _outputs(model, images))
        np.savez(draft / GOLDEN_OUTPUTS, **outputs)
        manifest = Manifest(
            name=name,
            created=timestamp(),
            target=spec.target,
            precision=spec.precision,
            dla=spec.dla,
            opset=spec.written_opset,
            input=InputInfo(images.shape[-2], images.shape[-1], spec.batch),
            tasks=_task_infos(model, layouts, accuracy or {}, split, lowered, spec.atol),
            plan=model.plan,
            layouts=layouts,
            golden=Golden(GOLDEN_INPUTS, GOLDEN_OUTPUTS, len(images), spec.atol, spec.rtol),
            certificate=collapsed.certificate.worst,
            versions=_versions(),
            files={},
            lowered=lowered.report if lowered else None,
        )
        if spec.devices:
            write_device_files(draft, manifest, spec.devices)
        paths = [path for path in sorted(draft.rglob("*")) if path.is_file()]
        files = {path.relative_to(draft).as_posix(): sha256(path) for path in paths}
        manifest = msgspec.structs.replace(manifest, files=files)
        write_manifest(draft, manifest)
    return manifest


def _check_free(folder: Path) -> None:
    """Refuse to replace anything but a bundle."""
    free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    bundle = all((folder / name).is_file() for name in (MANIFEST, SUMS))
    if not free and not bundle:
        raise UsageError(
            "--out",
            expected="a folder that does not exist or is empty, or a bundle to replace",
            found=str(folder),
            fix="Name another.",
        )


def _write_files(
    model: MultitaskModel, draft: Path, spec: Export, images: Tensor, material: Material
) -> tuple[dict[str, tuple[ModelFile, ...]], Outcome | None]:
    """Write the ONNX files of all layouts, in their precision and as the target runs them best."""
    layouts = write_models(
        model,
        draft,
        layouts=spec.layouts,
        size=(images.shape[-2], images.shape[-1]),
        batch=spec.batch,
        opset=spec.written_opset,
    )
    for path in sorted(draft.glob("*.onnx")):
        check_model(spec.devices, path, spec.written_opset)
    if not spec.devices and "split" in layouts:
        layouts = {**layouts, "split": (*layouts["split"], *join_heads(draft, layouts["split"]))}
    lowered = None if spec.precision == "fp32" else _lower(model, draft, layouts, spec, images, material)
    if not spec.devices:
        for path in sorted(draft.glob("*.onnx")):
            onnx.save(gather_upsampling(fuse_siblings(onnx.load(path))), path)
    return layouts, lowered


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
        folder, files = draft, layouts.get("split")
        if files is None:
            folder = Path(temporary)
            files = write_models(
                model, folder, layouts=("split",), size=size, batch=spec.batch, opset=spec.written_opset
            )["split"]
        split = [file for file in files if not file.joins]
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
                mean_atol=max(atol, lowered.mean_atol[task]),
            )
    return infos


def _versions() -> dict[str, str]:
    modules = onnx, onnxsim, onnxruntime
    numbers = {"edgemtl": __version__, "torch": str(torch.__version__)}
    return numbers | {module.__name__: module.__version__ for module in modules}


def _tensor_of(layouts: Mapping[str, tuple[ModelFile, ...]], task: str) -> TensorInfo:
    tensors = (tensor for files in layouts.values() for file in files for tensor in file.outputs)
    return next(tensor for tensor in tensors if tensor.name == task)
