"""Engines that were built before: beside the bundle, or in the user's cache where that cannot be written.

An engine runs only on the kind of GPU and the version of TensorRT that built it, so both stand in its file's
name. The file is the engine alone, as trtexec and DeepStream want it; a sidecar says what it was built from.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path, PurePosixPath
from time import perf_counter
from typing import Any

import msgspec

from edgemtl.core.bundle import MANIFEST, InputInfo, ModelFile, sha256
from edgemtl.core.errors import SetupError
from edgemtl.core.files import json_bytes, replacing
from edgemtl.core.report import timestamp
from edgemtl.runtime.build import Build, TensorRt
from edgemtl.runtime.cuda import Gpu

_LOG = logging.getLogger(__name__)


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine depends on. ``capability`` is that of the GPU; ``batch`` is (smallest, largest)."""

    onnx_sha256: str
    runtime: str
    gpu: str
    capability: str
    batch: tuple[int, int]


class Sidecar(Origin, frozen=True, kw_only=True):
    """The facts of an engine file. ``precision`` names the types it computes in."""

    engine_sha256: str
    precision: str
    build_s: float
    created: str


def open_engine(path: Path, file: ModelFile, tensorrt: TensorRt, gpu: Gpu) -> Any:
    """The engine of a model file, ready to run: one that was kept, or else built now, which may take minutes.

    Raises:
        SetupError: this TensorRT cannot build it, or no folder can be written.
    """
    bundle = path.resolve().parents[len(PurePosixPath(file.path).parts) - 1]
    origin = Origin(
        onnx_sha256=sha256(path),
        runtime=tensorrt.name,
        gpu=gpu.name,
        capability=gpu.capability,
        batch=msgspec.json.decode((bundle / MANIFEST).read_bytes(), type=_Manifest).input.batch,
    )
    places = [folder / _file_name(file, origin) for folder in _folders(bundle)]
    for place in filter(Path.is_file, places):
        reason = _why_not(place, origin)
        if not reason and (engine := tensorrt.load(place.read_bytes())) is not None:
            return engine
        _LOG.warning("%s is built again: %s", place, reason or tensorrt.errors())
    place = _writable(places)
    _LOG.warning("Building %s for %s on %s; this can take minutes.", place, origin.runtime, origin.gpu)
    engine = tensorrt.load(_build(path, place, origin, tensorrt, gpu))
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


def _folders(bundle: Path) -> tuple[Path, Path]:
    """Where the engines of a bundle may lie. Never inside it: its files are those of its manifest."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256(str(bundle).encode()).hexdigest()[:12]
    name = f"{bundle.name}.engines"
    return bundle.with_name(name), cache / "edgemtl" / f"{digest}-{name}"


def _file_name(file: ModelFile, origin: Origin) -> str:
    model = "-".join(PurePosixPath(file.path).with_suffix("").parts)
    runtime, capability = origin.runtime.replace(" ", "-"), origin.capability.replace(".", "")
    return f"{model}.{runtime}.sm{capability}.engine"


def _sidecar(place: Path) -> Path:
    return place.with_name(f"{place.name}.json")


def _why_not(place: Path, origin: Origin) -> str:
    """Why an engine is not the one that is wanted; nothing if it is."""
    try:
        found = msgspec.json.decode(_sidecar(place).read_bytes(), type=Sidecar)
    except (OSError, msgspec.DecodeError) as error:
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


def _build(path: Path, place: Path, origin: Origin, tensorrt: TensorRt, gpu: Gpu) -> bytes:
    start = perf_counter()
    build = Build(tensorrt, path, origin.batch)
    # On a board the GPU's memory is everybody's: without a bound the system kills the build.
    engine = build.serialize(workspace_bytes=gpu.free_bytes() // 2)
    sidecar = Sidecar(
        **msgspec.structs.asdict(origin),
        engine_sha256=hashlib.sha256(engine).hexdigest(),
        precision=build.precision,
        build_s=round(perf_counter() - start, 3),
        created=timestamp(),
    )
    with replacing(place) as draft:
        draft.write_bytes(engine)
    with replacing(_sidecar(place)) as draft:
        draft.write_bytes(json_bytes(sidecar))
    return engine
