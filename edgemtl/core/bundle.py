"""Bundle: the directory that leaves the desk and is all that the edge needs.

``manifest.json`` says what the files are; ``SHA256SUMS`` covers every file, the manifest included, so
``sha256sum -c SHA256SUMS`` checks a bundle on a board that has nothing else.
"""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

import msgspec

from edgemtl.core.errors import BundleError, DataError, UsageError
from edgemtl.core.files import json_bytes
from edgemtl.core.plan import SharingPlan
from edgemtl.core.report import MetricInfo

FORMAT = 1
MANIFEST = "manifest.json"
SUMS = "SHA256SUMS"


class Classes(msgspec.Struct, frozen=True, tag_field="kind", tag="classes"):
    """Logits [B, len(labels), H, W]; the class is the argmax over axis 1."""

    labels: tuple[str, ...]


class Scalar(msgspec.Struct, frozen=True, tag_field="kind", tag="scalar"):
    """One value a pixel [B, 1, H, W] in ``unit``."""

    unit: str


class UnitVector(msgspec.Struct, frozen=True, tag_field="kind", tag="unit_vector"):
    """A vector of length 1 at every pixel [B, 3, H, W]; ``axes`` says which way each component points."""

    axes: tuple[str, str, str] = ("right", "down", "forward")


Output = Classes | Scalar | UnitVector


class TensorInfo(msgspec.Struct, frozen=True):
    """A tensor that enters or leaves a model file. The first axis is the batch; -1 means that it is free."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


class ModelFile(msgspec.Struct, frozen=True):
    """One ONNX file: which tasks need it, what it reads and what it writes.

    A name is one tensor in all files of a bundle, so a runner only keeps a table of tensors by name.
    ``channels`` is the most that one of its convolutions writes, 0 where it has none. ``joins`` names files
    before it which together compute the same; it is for runs that want all that it writes.
    """

    name: str
    path: str
    tasks: tuple[str, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    parameters: int
    macs: int
    channels: int
    joins: tuple[str, ...] = ()


class InputInfo(msgspec.Struct, frozen=True):
    """The image that a bundle takes: [B, 3, height, width], RGB, float32 in 0..1, resized bilinearly.

    Normalization by mean and standard deviation, where a network wants it, is part of the model files.
    ``batch`` is (smallest, largest).
    """

    height: int
    width: int
    batch: tuple[int, int]
    name: str = "image"
    color: str = "RGB"
    layout: str = "NCHW"
    dtype: str = "float32"
    range: tuple[float, float] = (0.0, 1.0)
    resize: str = "bilinear"


class TaskInfo(msgspec.Struct, frozen=True):
    """What a task's output means and how accurate it was when the bundle was written.

    ``tensor`` bears the task's own name.

    ``accuracy`` maps the names in ``metrics`` to values measured on ``split``,
    None where the split has no such label; it is empty where nothing was measured. Of a bundle in lower
    precision it is that of its own files, and ``accuracy_fp32`` that of the collapsed network beside it.
    ``atol`` stands for that of ``Golden`` where a task has one of its own, and ``mean_atol`` then bounds the
    mean over all elements: the worst of them would excuse all others.
    """

    tensor: TensorInfo
    output: Output
    metrics: tuple[MetricInfo, ...]
    accuracy: dict[str, float | None]
    split: str = ""
    accuracy_fp32: dict[str, float | None] = {}
    atol: float | None = None
    mean_atol: float | None = None


class Golden(msgspec.Struct, frozen=True):
    """Recorded inputs and outputs: npz files keyed by tensor name, [samples, ...] each.

    The outputs come from the collapsed PyTorch network; in lower precision from ONNX Runtime without
    optimizations, which computes what the files say. A runtime agrees when every element satisfies
    |found - expected| <= atol + rtol * |expected|, with the task's own ``atol`` where it has one, and the
    mean over the elements so with ``mean_atol``.
    """

    inputs: str
    outputs: str
    samples: int
    atol: float
    rtol: float


class Lowered(msgspec.Struct, frozen=True, kw_only=True):
    """How a bundle came to its precision.

    ``parts`` maps every segment and head to its precision. ``activations`` is int8 or uint8, and there with
    the ``calibration`` where a part is int8; ``calibration_sha256`` is of the pixels. ``sensitivity`` is the
    share of the ``budget`` that a part uses up when it alone is lowered.
    """

    parts: dict[str, str]
    activations: str = ""
    calibration: str = ""
    calibration_images: int = 0
    calibration_sha256: str = ""
    equalized: bool = False
    bias_corrected: bool = False
    budget: tuple[str, ...] = ()
    sensitivity: dict[str, float] = {}


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of manifest.json.

    ``layouts`` maps ``merged`` (one file) and ``split`` (trunk, branches, heads, in the order they run) to
    their files. ``files`` maps every other file of the bundle to its SHA-256. ``lowered`` is not for fp32.
    With ``dla`` engines may use the DLA of a board, a second processor beside its GPU.
    """

    format: int = FORMAT
    name: str
    created: str
    target: str
    precision: str
    dla: bool = False
    opset: int
    input: InputInfo
    tasks: dict[str, TaskInfo]
    plan: SharingPlan
    layouts: dict[str, tuple[ModelFile, ...]]
    golden: Golden
    certificate: dict[str, float]
    versions: dict[str, str]
    files: dict[str, str]
    lowered: Lowered | None = None


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json and SHA256SUMS beside the files that ``manifest.files`` names."""
    (folder / MANIFEST).write_bytes(json_bytes(manifest))
    sums = {**manifest.files, MANIFEST: sha256(folder / MANIFEST)}
    (folder / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))


def read_manifest(folder: Path) -> Manifest:
    """Read and check a bundle: format, that every path stays inside, and every hash.

    Raises:
        DataError: there is no bundle.
        BundleError: a file is missing, was changed, lies outside the bundle or is of another format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(
            folder, expected="a bundle with manifest.json", found="none", fix="Run `edgemtl export`."
        )
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_Format).format
        if found != FORMAT:
            raise BundleError(
                path,
                expected=f"bundle format {FORMAT}",
                found=f"format {found}",
                fix="Export it again with this version of edgemtl, or install the version that wrote it.",
            )
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, UsageError) as error:  # the last: of an impossible plan
        raise BundleError(
            path, expected="a manifest", found=str(error), fix="Copy the bundle again or export it again."
        ) from error
    _check_layouts(path, manifest)
    _check_paths(path, manifest)
    _check_tensors(path, manifest)
    _check_complete(path, manifest)
    _check_hashes(folder, manifest)
    return manifest


class _Format(msgspec.Struct):
    format: int


def _check_layouts(where: Path, manifest: Manifest) -> None:
    found = manifest.layouts
    if not (manifest.tasks and found and found.keys() <= {"merged", "split"} and all(found.values())):
        layouts = ", ".join(f"{name} of {len(files)} files" for name, files in found.items())
        expected = "tasks, and the files of the layout merged or split"
        raise _incomplete(where, expected, f"{len(manifest.tasks)} tasks; {layouts or 'no layout'}")


def _check_paths(where: Path, manifest: Manifest) -> None:
    models = [file.path for files in manifest.layouts.values() for file in files]
    for name in [*manifest.files, *models, manifest.golden.inputs, manifest.golden.outputs]:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
            raise BundleError(
                where,
                expected="paths inside the bundle",
                found=f"`{name}`",
                fix="Do not use this bundle: get it again from where it was exported.",
            )
        if name not in manifest.files:
            raise BundleError(
                where,
                expected=f"a hash for `{name}`",
                found="none",
                fix="Do not use this bundle: get it again from where it was exported.",
            )


def _check_tensors(where: Path, manifest: Manifest) -> None:
    for task, info in manifest.tasks.items():
        if info.tensor.name != task:
            raise _incomplete(where, f"a tensor `{task}` for the task `{task}`", f"`{info.tensor.name}`")


def _check_complete(where: Path, manifest: Manifest) -> None:
    least, most = manifest.input.batch
    if not 1 <= least <= most:
        raise _incomplete(where, "a smallest and a largest batch", f"{least}, {most}")
    for layout, files in manifest.layouts.items():
        for task in manifest.tasks:
            if not any(task in file.tasks and task in (t.name for t in file.outputs) for file in files):
                raise _incomplete(where, f"a file of the layout {layout} that writes `{task}`", "none")


def _incomplete(where: Path, expected: str, found: str) -> BundleError:
    return BundleError(
        where, expected=expected, found=found, fix="Export the bundle again with `edgemtl export`."
    )


def _check_hashes(folder: Path, manifest: Manifest) -> None:
    sums = folder / SUMS
    lines = sums.read_text(errors="replace").splitlines() if sums.is_file() else []
    recorded = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name, digest in {MANIFEST: recorded.get(MANIFEST, "none"), **manifest.files}.items():
        path = folder / name
        if folder.resolve() not in path.resolve().parents:
            found = "a link that leaves the bundle"
        else:
            found = sha256(path) if path.is_file() else "no such file"
        if found != digest:
            raise BundleError(
                path,
                expected=f"SHA-256 {digest[:12]}",
                found=found[:12] if len(found) == 64 else found,
                fix="The file was changed or damaged: copy the bundle again or export it again.",
            )
