"""verify.py and bench.py as they stand in a bundle: Python is real, TensorRT and the board are not."""

from __future__ import annotations

import ast
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch")

import onnx

from edgemtl.bench.conditions import read_conditions
from edgemtl.bench.power import PowerMeter
from edgemtl.core.bundle import sha256
from edgemtl.core.files import json_bytes
from edgemtl.export.jetson import COPIED, SCRIPTS
from edgemtl.export.targets import BOARDS, Device, devices
from edgemtl.runtime.verify import verify
from tests.export.boards import AGX_62, THOR, bundle, read_manifest_of, seal
from tests.fixtures.boards.board import FakeBoard, build
from tests.fixtures.places import FIXTURES

RECORDED = FIXTURES / "boards-sysfs"


@pytest.fixture(scope="module")
def libcuda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CUDA's driver in host memory."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler to make a stand-in for liblibcuda.so")
    path = tmp_path_factory.mktemp("cuda") / "liblibcuda.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", path, FIXTURES / "boards" / "cuda.c"], check=True)
    return path


def on_board(
    folder: Path,
    script: str,
    libcuda: Path,
    tensorrt: str,
    *words: str,
    code: int = 0,
    capability: str = "8.7",
    root: Path = Path("/"),
) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "EDGEMTL_ROOT": str(root),
        "FAKE_CAPABILITY": capability,
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
    build(folder, FakeBoard(device, tmp_path / "board"))
    capability = BOARDS[device.board].capability
    answer = on_board(folder, "verify.py", libcuda, tensorrt, "--json", capability=capability)
    found = json.loads(answer.stdout)
    expected = json.loads(json_bytes(verify(folder, threads=1)))
    assert found["runtime"] == f"tensorrt {tensorrt}"
    assert {"board", "power_mode"} <= set(found["device"])
    assert {"clocks", "power", "warnings"} <= set(found)
    for name in ("bundle", "samples", "atol", "rtol", "layouts", "passed"):
        assert found[name] == expected[name]


def test_engines_of_two_gpus_lie_side_by_side(libcuda: Path, tmp_path: Path) -> None:
    """As in a folder that two boards share; each takes its own."""
    orin, thor = devices("jetson-agx-orin", "7.2")[0], devices("jetson-thor", "7.2")[0]
    folder = bundle(tmp_path / "bundle", (orin, thor))
    for device in (orin, thor):
        build(folder, FakeBoard(device, tmp_path / device.board))
    for engine in (folder / "engines").glob("*.sm87.engine"):
        replace_engine(engine, b"of another GPU")
    on_board(folder, "verify.py", libcuda, "10.16.0", capability="11.0")
    found = on_board(folder, "verify.py", libcuda, "10.16.0", capability="8.7", code=4)
    assert "sm87.engine: expected an engine of this GPU" in found.stderr


def replace_engine(engine: Path, content: bytes) -> None:
    """As if it had been built so: its sidecar knows it."""
    engine.write_bytes(content)
    sidecar = engine.with_name(f"{engine.name}.json")
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "engine_sha256": sha256(engine)}))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    build(bundle(folder / "bundle", (AGX_62,)), FakeBoard(AGX_62, folder / "board"))
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
    assert {"clocks", "power", "warnings"} <= set(report)
    on_board(built, "bench.py", libcuda, "10.3.0", "--batch", "5", code=2)
    printed = on_board(built, "bench.py", libcuda, "10.3.0", *words[1:], "--layout", "split").stdout
    assert "split" in printed
    assert "merged" not in printed


SHORT = ["--duration", "0.01", "--warmup-ms", "1"]


@pytest.mark.parametrize(("script", "words"), [("bench.py", SHORT), ("verify.py", [])])
def test_a_board_that_throttles_is_warned_of(
    script: str, words: list[str], built: Path, libcuda: Path
) -> None:
    for board, warned in ("orin-nano-throttling", True), ("orin-nano", False):
        printed = on_board(built, script, libcuda, "10.3.0", *words, root=RECORDED / board).stdout
        assert ("WARNING: throttling: gpu-throttle-alert" in printed) == warned
        assert "board: NVIDIA Jetson Orin Nano Developer Kit" in printed
        assert "VDD_IN: " in printed and "gpu: " in printed


def test_events_that_come_while_it_measures_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    board = importlib.import_module("board")
    monkeypatch.setattr(board, "ROOT", RECORDED / "orin-nano")
    before = board.slowdowns()
    assert {"under-voltage", "average over-current"} <= set(before)
    assert board.warnings(before, before) == []
    after = {**before, "under-voltage": before["under-voltage"] + 1}
    assert board.warnings(before, after) == ["throttling: under-voltage"]


def test_an_alert_that_is_over_at_the_end_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    board = importlib.import_module("board")
    shutil.copytree(RECORDED / "orin-nano", tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(board, "ROOT", tmp_path)
    state = next(
        path.with_name("cur_state")
        for path in tmp_path.glob("sys/class/thermal/cooling_device*/type")
        if path.read_text().strip() == "gpu-throttle-alert"
    )
    with board.Watch() as watch:
        state.write_text("1")
        time.sleep(3 * board.INTERVAL_S)
        state.write_text("0")
    assert watch.facts["warnings"] == ["throttling: gpu-throttle-alert"]


@pytest.mark.parametrize("name", ["agx-orin", "agx-thor", "orin-nano", "orin-nano-throttling"])
def test_clocks_and_power_are_what_edgemtl_bench_reads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script stands alone on the board, so it says again what the room bench says."""
    monkeypatch.syspath_prepend(SCRIPTS)
    board = importlib.import_module("board")
    monkeypatch.setattr(board, "ROOT", RECORDED / name)
    conditions = read_conditions(RECORDED / name)
    clocks = {name: msgspec.structs.asdict(clock) for name, clock in conditions.clocks.items()}
    clocks.pop("emc", None)
    assert clocks.items() <= board.clocks().items()
    assert board.device_facts()["hottest_c"] == max(conditions.temperatures_c.values())
    meter = PowerMeter(RECORDED / name)
    with meter.running(), board.Sampler() as alone:
        pass
    expected = json.loads(json_bytes(meter.power))
    for rail in expected["rails"].values() if expected else ():
        del rail["source"]
    assert alone.power() == expected


@pytest.mark.parametrize(
    ("tensorrt", "words", "code", "says"),
    [
        (
            "11.4.1",
            (),
            4,
            "model for TensorRT 11.4.1 and compute capability 8.7, found model.tensorrt-10.3.0.sm87.engine",
        ),
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
    assert "found a truncated or changed one. Remove it and run ./build.sh." in found.stderr
    missing = on_board(folder, "verify.py", tmp_path / "no.so", "10.3.0", code=4)
    assert "EDGEMTL_LIBCUDA" in missing.stderr


def test_an_engine_of_a_bundle_that_was_here_before_is_not_run(
    built: Path, libcuda: Path, tmp_path: Path
) -> None:
    """Who copies a new bundle over the old one has the old engines, under the same names."""
    folder = Path(shutil.copytree(built, tmp_path / "bundle"))
    manifest = read_manifest_of(folder)
    model = onnx.load(folder / "model.onnx")
    model.doc_string = "trained on"
    onnx.save(model, folder / "model.onnx")
    seal(folder, manifest)
    found = on_board(folder, "verify.py", libcuda, "10.3.0", "--layout", "merged", code=4)
    assert "found one of another model. Remove it and run ./build.sh." in found.stderr
    for path in (folder / "engines").glob("*.json"):
        path.unlink()
    found = on_board(folder, "verify.py", libcuda, "10.3.0", "--layout", "split", code=4)
    assert "expected what the engine was built from" in found.stderr


@pytest.mark.parametrize("name", [name for name in COPIED if name.endswith(".py")])
def test_the_scripts_are_python_3_8_and_need_no_more_than_a_board_has(name: str) -> None:
    tree = ast.parse((SCRIPTS / name).read_text(), feature_version=(3, 8))
    roots = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {(node.module or "").split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert roots - set(sys.stdlib_module_names) <= {"numpy", "tensorrt", "network", "board"}


def test_a_document_is_json_whatever_was_found() -> None:
    code = "from board import print_json; print_json({'a': [float('nan'), 1.5], 'b': {'c': float('inf')}})"
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert json.loads(printed.stdout, parse_constant=pytest.fail) == {"a": [None, 1.5], "b": {"c": None}}
