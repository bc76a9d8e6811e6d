"""The tiny bundle with the scripts for boards, and boards to run them on."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from edgemtl.core.bundle import Manifest, read_manifest, sha256, write_manifest
from edgemtl.export.jetson import write_device_files
from edgemtl.export.targets import Device, devices
from tests.fixtures.places import TINY

NANO_51, AGX_62 = devices("jetson-orin-nano", "5.1")[0], devices("jetson-agx-orin", "6.2")[0]
THOR = devices("jetson-thor", "7.2.2")[0]


def bundle(
    folder: Path, fleet: tuple[Device, ...], *, precision: str = "fp32", dla: bool = False, batch: int = 0
) -> Path:
    """The tiny bundle, as it would have been exported for ``fleet``; with ``batch``, a static one."""
    shutil.copytree(TINY, folder)
    manifest = read_manifest(folder)
    image = msgspec.structs.replace(manifest.input, batch=(batch, batch) if batch else manifest.input.batch)
    manifest = msgspec.structs.replace(
        manifest, target=fleet[0].board, precision=precision, dla=dla, input=image
    )
    write_device_files(folder, manifest, fleet)
    return seal(folder, manifest)


def read_manifest_of(folder: Path) -> Manifest:
    """The manifest of a bundle whose files no longer have their hashes."""
    return msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)


def seal(folder: Path, manifest: Manifest) -> Path:
    paths = [
        p for p in sorted(folder.rglob("*")) if p.is_file() and "SUMS" not in p.name and p.suffix != ".json"
    ]
    files = {path.relative_to(folder).as_posix(): sha256(path) for path in paths}
    write_manifest(folder, msgspec.structs.replace(manifest, files=files))
    return folder
