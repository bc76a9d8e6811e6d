"""Every kind of bundle for every target of the table: exported, built by the bundle's build.sh on a fake
board, verified by ONNX Runtime, and, as every bundle in these tests, parsed and built by TensorRT-RTX."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import onnx

from edgemtl.core.bundle import Manifest, ModelFile, sha256
from edgemtl.export.onnx import write_models
from edgemtl.export.targets import TARGETS, devices
from edgemtl.model import MultitaskModel
from edgemtl.runtime.verify import verify
from tests.export.kinds import DLA, KINDS, export
from tests.fixtures.boards.board import FakeBoard, build, engines

EVERY = [
    (target, jetpack, kind)
    for target in TARGETS
    for jetpack in sorted({"", *(device.platform.jetpack for device in devices(target))})
    for kind, one in KINDS.items()
    if one.network == "segnet" or not jetpack  # what is for all of a target's JetPacks is for each
]


@pytest.fixture(scope="module", autouse=True)
def one_export_per_opset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The fp32 files of a network depend on batch and opset alone, and PyTorch takes seconds for them."""
    written: dict[Any, tuple[Path, dict[str, tuple[ModelFile, ...]]]] = {}

    def write_once(model: MultitaskModel, folder: Path, **rest: Any) -> object:
        key = id(model), rest["batch"], rest["opset"]
        if key not in written:
            origin = tmp_path_factory.mktemp("opset")
            written[key] = origin, write_models(model, origin, **rest)
        origin, layouts = written[key]
        shutil.copytree(origin, folder, dirs_exist_ok=True)
        return layouts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgemtl.export.bundle.write_models", write_once)
        yield


@pytest.mark.parametrize(("target", "jetpack", "kind"), EVERY, ids=lambda word: word or "any")
def test_it_is_exported_built_and_verified(
    target: str, jetpack: str, kind: str, gated: set[str], tmp_path: Path
) -> None:
    fleet, folder = devices(target, jetpack), tmp_path / "bundle"
    manifest = export(KINDS[kind], folder, target=target, jetpack=jetpack)
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
    assert (manifest.lowered and manifest.lowered.activations == "uint8") or passed(folder, gated)


@pytest.mark.parametrize(
    ("board", "jetpack", "precision"),
    [
        (device.board, device.platform.jetpack, precision)
        for device in devices("jetson")
        if device.board in device.platform.dla
        for precision in (DLA if device.platform.tensorrt.startswith("11") else ("fp16",))
    ],
)
def test_with_a_dla_too(board: str, jetpack: str, precision: str, gated: set[str], tmp_path: Path) -> None:
    (device,), folder = devices(board, jetpack), tmp_path / "bundle"
    manifest = export(DLA[precision], folder, target=board, jetpack=jetpack)
    assert manifest.dla
    check_build(folder, manifest, FakeBoard(device, tmp_path / "board"))
    assert verify(folder, threads=1).passed
    assert passed(folder, gated)


def passed(folder: Path, gated: set[str]) -> bool:
    """Whether all files of a bundle went through TensorRT-RTX, which may be missing here."""
    return not find_spec("tensorrt_rtx") or {sha256(path) for path in folder.glob("*.onnx")} <= gated


def check_build(folder: Path, manifest: Manifest, board: FakeBoard) -> None:
    """build.sh builds every file of the bundle, by what this board's trtexec knows."""
    build(folder, board)
    files = {file.path: file for files in manifest.layouts.values() for file in files}
    assert {f"{file.name}.{board.suffix}.engine" for file in files.values()} <= engines(folder)
    assert len(board.recorded) == len(files)
    smallest, largest = manifest.input.batch
    for words in map(set, board.recorded):
        (path,) = (word.removeprefix("--onnx=") for word in words if word.startswith("--onnx="))
        file, types = files.pop(path), types_in(folder / path)
        dla = manifest.dla and types != {"float32"}
        assert words & TYPE_WORDS == type_words(board.tensorrt, types, dla)
        assert {"--useDLACore=0", "--allowGPUFallback"} <= words or not dla
        assert ("--buildOnly" in words) == board.tensorrt.startswith("8.5")
        assert {"--noTF32", "--memPoolSize=workspace:2000"} <= words
        for bound, size in ("min", smallest), ("max", largest):
            shapes = (f"{t.name}:{'x'.join(map(str, (size, *t.shape[1:])))}" for t in file.inputs)
            assert (f"--{bound}Shapes={','.join(shapes)}" in words) == (smallest < largest)


TYPE_WORDS = {"--fp16", "--int8", "--stronglyTyped", "--precisionConstraints=obey"}


def type_words(tensorrt: str, types: set[str], dla: bool) -> set[str]:
    """What trtexec is told of types: 8, and 10 for a DLA, all of the file; 10 to read it; 11 nothing."""
    if tensorrt.startswith("11"):
        return set()
    if tensorrt.startswith("10") and not dla:
        return {"--stronglyTyped"}
    half = {"--fp16", "--precisionConstraints=obey"} if "float16" in types else set()
    return half | ({"--int8"} if "int8" in types else set())


def types_in(path: Path) -> set[str]:
    """The types that the nodes of a file compute in."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    found = {info.name: info.type.tensor_type.elem_type for info in (*graph.value_info, *graph.output)}
    names = {found.get(name) for node in graph.node for name in node.output}
    words = {onnx.TensorProto.FLOAT16: "float16", onnx.TensorProto.INT8: "int8"}
    return {words[kind] for kind in names & words.keys()} or {"float32"}
