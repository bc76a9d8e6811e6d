"""Engines that were built before: in the bundle, or in the user's cache where that cannot be written.

An engine runs only on the kind of GPU and the version of TensorRT that built it, so both stand in its file's
name. The file is the engine alone, as trtexec and DeepStream want it; a sidecar says what it was built from.
Names and sidecars are those of ``build.sh``: what either has built, the other finds.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path, PurePosixPath
from time import perf_counter
from typing import Any

import msgspec

from edgemtl import __version__
from edgemtl.core.bundle import MANIFEST, InputInfo, ModelFile, sha256
from edgemtl.core.errors import SetupError
from edgemtl.core.files import json_bytes, replacing
from edgemtl.core.report import timestamp
from edgemtl.runtime.build import Build, TensorRt
from edgemtl.runtime.cuda import Gpu

ENGINES = "engines"
LEAST_WORKSPACE = 256 << 20  # bytes; as in build.sh
MODEL = Path("/proc/device-tree/model")
_LOG = logging.getLogger(__name__)


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine depends on. ``runtime`` is the name and the first three numbers of the version of what
    built it, ``device`` the board or else the GPU, ``batch`` (smallest, largest), ``dla`` whether it may use
    the board's."""

    onnx_sha256: str
    runtime: str
    device: str
    capability: str
    batch: tuple[int, int]
    dla: bool = False


class Sidecar(Origin, frozen=True, kw_only=True):
    """The facts of an engine file. ``precision`` names the types it computes in; trtexec does not tell."""

    engine_sha256: str
    build_s: float
    created: str
    built_by: str
    precision: str = ""


def open_engine(path: Path, file: ModelFile, tensorrt: TensorRt, gpu: Gpu) -> Any:
    """The engine of a model file, ready to run: one that was kept, or else built now, which may take minutes.

    Raises:
        SetupError: this TensorRT cannot build it, or no folder can be written.
    """
    bundle = path.resolve().parents[len(PurePosixPath(file.path).parts) - 1]
    manifest = msgspec.json.decode((bundle / MANIFEST).read_bytes(), type=_Manifest)
    origin = Origin(
        onnx_sha256=sha256(path),
        runtime=tensorrt.release,
        device=_board() or gpu.name,
        capability=gpu.capability,
        batch=manifest.input.batch,
        dla=manifest.dla,
    )
    places = [folder / _file_name(file, origin) for folder in _folders(bundle)]
    for place in filter(Path.is_file, places):
        reason = _why_not(place, origin)
        if not reason and (engine := tensorrt.load(place.read_bytes(), dla=origin.dla)) is not None:
            return engine
        _LOG.warning("%s is built again: %s", place, reason or tensorrt.errors())
    place = _writable(places)
    _LOG.warning("Building %s for %s on %s; this can take minutes.", place, origin.runtime, origin.device)
    engine = tensorrt.load(_build(path, place, origin, tensorrt, gpu), dla=origin.dla)
    if engine is None:
        raise SetupError(
            place,
            expected=f"an engine that {tensorrt.name} loads",
            found=tensorrt.errors(),
            fix="Is there enough memory? Close other programs and try again.",
        )
    return engine


class _Manifest(msgspec.Struct):
    input: InputInfo
    dla: bool = False


def _board() -> str | None:
    """What the board calls itself, as build.sh reads it; the GPUs of all Orins have one name."""
    try:
        return MODEL.read_text().strip("\0\n ") or None
    except OSError:
        return None


def _folders(bundle: Path) -> tuple[Path, Path]:
    """Where the engines of a bundle may lie. Its hashes are of the files in its manifest alone."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256(str(bundle).encode()).hexdigest()[:12]
    return bundle / ENGINES, cache / "edgemtl" / f"{digest}-{bundle.name}.engines"


def _file_name(file: ModelFile, origin: Origin) -> str:
    runtime, capability = origin.runtime.replace(" ", "-"), origin.capability.replace(".", "")
    return f"{file.name}.{runtime}.sm{capability}.engine"


def _sidecar(place: Path) -> Path:
    return place.with_name(f"{place.name}.json")


def _why_not(place: Path, origin: Origin) -> str:
    """Why an engine is not the one that is wanted; nothing if it is."""
    try:
        found = msgspec.json.decode(_sidecar(place).read_bytes(), type=Sidecar)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        return f"its sidecar cannot be read ({error})"
    for field in Origin.__struct_fields__:
        there, here = getattr(found, field), getattr(origin, field)
        if there != here:
            return f"it was built for {field} {there}, not {here}"
    return "" if sha256(place) == found.engine_sha256 else "it is truncated or was changed"


def _writable(places: list[Path]) -> Path:
    for place in places:
        existing = next(folder for folder in place.parents if folder.is_dir())
        if os.access(existing, os.W_OK):
            return place
    raise SetupError(
        places[-1].parent,
        expected="a folder to keep engines in",
        found="no permission",
        fix="Set XDG_CACHE_HOME to a folder that can be written.",
    )


def _workspace_bytes(gpu: Gpu) -> int:
    """Half of what is free: on a board the memory is everybody's, and builds that take more get killed."""
    free = gpu.free_bytes()
    if free < 2 * LEAST_WORKSPACE:
        raise SetupError(
            "memory",
            expected=f"{2 * LEAST_WORKSPACE >> 20} MiB free",
            found=f"{free >> 20} MiB",
            fix="Stop other programs, the desktop first, or add swap.",
        )
    return free // 2


def _build(path: Path, place: Path, origin: Origin, tensorrt: TensorRt, gpu: Gpu) -> bytes:
    start = perf_counter()
    build = Build(tensorrt, path, origin.batch, dla=origin.dla)
    engine = build.serialize(_workspace_bytes(gpu))
    sidecar = Sidecar(
        **msgspec.structs.asdict(origin),
        engine_sha256=hashlib.sha256(engine).hexdigest(),
        build_s=round(perf_counter() - start, 3),
        created=timestamp(),
        built_by=f"edgemtl {__version__}",
        precision=build.precision,
    )
    with replacing(place) as draft:
        draft.write_bytes(engine)
    with replacing(_sidecar(place)) as draft:
        draft.write_bytes(json_bytes(sidecar))
    return engine
