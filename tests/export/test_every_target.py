"""Every target of the table in every precision: exported, built by the bundle's build.sh on a fake board,
verified by ONNX Runtime, and parsed and built by TensorRT-RTX."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import numpy as np
import onnx

from edgemtl.backbones import SegNet
from edgemtl.collapse import CollapsedModel, collapse
from edgemtl.core.bundle import Manifest, ModelFile, sha256
from edgemtl.export import Export, Material, write_bundle
from edgemtl.export.onnx import write_models
from edgemtl.export.precision import WRITTEN
from edgemtl.export.targets import TARGETS, devices
from edgemtl.model import MultitaskModel
from edgemtl.runtime.verify import verify
from tests.export.gate import serialized
from tests.export.networks import forked
from tests.fixtures.boards.board import FakeBoard, build, engines

SIZE, BATCH = (16, 24), (1, 4)
EVERY = [
    (target, jetpack)
    for target in TARGETS
    for jetpack in sorted({"", *(device.platform.jetpack for device in devices(target))})
]
# What the trtexec of a major version is told of types: 8 all that the file says, 10 to read it, 11 nothing.
TYPES = {
    "8": {"fp32": set(), "fp16": {"--fp16", "--precisionConstraints=obey"}, "int8": {"--int8"}},
    "10": {precision: {"--stronglyTyped"} for precision in WRITTEN},
    "11": {precision: set() for precision in WRITTEN},
}
TYPE_WORDS = {"--fp16", "--int8", "--stronglyTyped", "--precisionConstraints=obey"}


@pytest.fixture(scope="module")
def collapsed() -> CollapsedModel:
    """Padded with zeros: a reflecting pad cannot be written for opset 17, all that JetPack 5 and 6.0 read."""
    torch.manual_seed(0)
    model = forked(
        SegNet(widths=(4, 6), convs=(1, 1)), {"decoder2": [["segmentation"], ["depth", "normals"]]}
    )
    model(torch.rand(2, 3, *SIZE))
    return collapse(model, SIZE)


@pytest.fixture(scope="module", autouse=True)
def one_export_per_opset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The fp32 files depend on the opset alone, and PyTorch takes seconds for them."""
    written: dict[int, tuple[Path, dict[str, tuple[ModelFile, ...]]]] = {}

    def write_once(model: MultitaskModel, folder: Path, *, opset: int, **rest: Any) -> object:
        if opset not in written:
            origin = tmp_path_factory.mktemp("opset")
            written[opset] = origin, write_models(model, origin, opset=opset, **rest)
        origin, layouts = written[opset]
        shutil.copytree(origin, folder, dirs_exist_ok=True)
        return layouts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgemtl.export.bundle.write_models", write_once)
        yield


@pytest.fixture(scope="module")
def passed() -> set[str]:
    """Hashes of the files that TensorRT-RTX has built: bundles of several targets hold the same."""
    return set()


@pytest.mark.parametrize("precision", WRITTEN)
@pytest.mark.parametrize(("target", "jetpack"), EVERY, ids=lambda word: word or "any")
def test_it_is_exported_built_and_verified(
    target: str, jetpack: str, precision: str, collapsed: CollapsedModel, passed: set[str], tmp_path: Path
) -> None:
    fleet, folder = devices(target, jetpack), tmp_path / "bundle"
    manifest = write_bundle(
        collapsed,
        folder,
        name="net",
        images=torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(1)),
        spec=Export(target=target, jetpack=jetpack, precision=precision, batch=BATCH),
        material=Material(np.random.default_rng(1).random((4, 3, *SIZE), np.float32)),
    )
    files = [folder / file.path for files in manifest.layouts.values() for file in files]
    # merged; trunk, two branches, three heads; for ONNX Runtime two of them once more as one file
    assert len(files) == (7 if fleet else 8)
    opset = 17 if any(device.platform.tensorrt.startswith("8.") for device in fleet) else 18
    assert manifest.opset == opset
    assert {entry.version for path in files for entry in onnx.load(path).opset_import} == {opset}
    # A board of each major version of TensorRT: bundles for one JetPack meet the others.
    boards = {device.platform.tensorrt.partition(".")[0]: device for device in fleet}
    for major, device in boards.items():
        check_build(folder, manifest, FakeBoard(device, tmp_path / major))
    assert verify(folder, threads=1).passed
    for path in files if fleet else ():  # int8 for any runtime is uint8, which TensorRT does not take
        if (digest := sha256(path)) not in passed:
            assert serialized(path, BATCH)
            passed.add(digest)


def check_build(folder: Path, manifest: Manifest, board: FakeBoard) -> None:
    """build.sh builds every file of the bundle, by what this board's trtexec knows."""
    build(folder, board)
    files = {file.path: file for files in manifest.layouts.values() for file in files}
    assert {f"{file.name}.{board.suffix}.engine" for file in files.values()} <= engines(folder)
    assert len(board.recorded) == len(files)
    for words in map(set, board.recorded):
        (path,) = (word.removeprefix("--onnx=") for word in words if word.startswith("--onnx="))
        file = files.pop(path)
        assert words & TYPE_WORDS == TYPES[board.tensorrt.partition(".")[0]][manifest.precision]
        assert ("--buildOnly" in words) == board.tensorrt.startswith("8.5")
        assert {"--noTF32", "--memPoolSize=workspace:2000"} <= words
        for bound, size in ("min", BATCH[0]), ("max", BATCH[1]):
            shapes = (f"{t.name}:{'x'.join(map(str, (size, *t.shape[1:])))}" for t in file.inputs)
            assert f"--{bound}Shapes={','.join(shapes)}" in words
