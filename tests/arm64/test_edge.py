"""The edge install on arm64 under qemu: that it is correct there. It says nothing of speed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edgemtl.core.bundle import read_manifest
from tests.fixtures.places import TINY

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-arm64/usr/bin/python"
ROOMS = 16
# What int8 on arm64 is held to by int8 on x86-64: the share of pixels of the same class (measured: 0.9997),
# and the largest difference of depths, which are 1 m to 6 m (measured: 0.036 m).
SAME_CLASSES, DEPTH_M = 0.99, 0.1

if shutil.which("qemu-aarch64-static") is None:
    pytest.skip("no qemu-aarch64-static: apt-get install qemu-user-static", allow_module_level=True)
if not PYTHON.exists():
    pytest.skip("no arm64 Python: `make setup-arm64`", allow_module_level=True)


def arm64(*words: object, cwd: Path) -> str:
    """What Python prints on arm64, with edgemtl from this checkout and all else from the edge install."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [str(PYTHON), *map(str, words)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=290)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_arm64_without_pytorch(tmp_path: Path) -> None:
    code = "import importlib.util as u, platform; print(platform.machine(), u.find_spec('torch'))"
    assert arm64("-c", code, cwd=tmp_path).split() == ["aarch64", "None"]


def test_what_was_installed_runs_by_itself(tmp_path: Path) -> None:
    done = subprocess.run(
        [PYTHON, "-m", "edgemtl", "--version"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(params=["fp32", "int8"])
def bundle(request: pytest.FixtureRequest) -> Path:
    """A tiny one that is committed, and one in int8 of a network that has learned something."""
    return TINY if request.param == "fp32" else Path(request.getfixturevalue("int8") / "bundle")


def test_verify_passes(bundle: Path, tmp_path: Path) -> None:
    report = json.loads(arm64("-m", "edgemtl", "verify", bundle, "--json", "--threads", 1, cwd=tmp_path))
    assert report["passed"]
    assert set(report["layouts"]) == set(read_manifest(bundle).layouts)


def test_run_writes_what_this_machine_writes(tmp_path: Path) -> None:
    runner = pytest.importorskip("edgemtl.runtime.runner")
    pytest.importorskip("onnxruntime")
    image = np.random.default_rng(0).random((12, 16, 3), dtype=np.float32)
    np.save(tmp_path / "image.npy", image)
    arm64("-m", "edgemtl", "run", TINY, "image.npy", "--threads", 1, cwd=tmp_path)
    found = np.load(next(tmp_path.glob("predictions/*.npz")))
    expected = runner.BundleRunner(TINY, threads=1)(image.transpose(2, 0, 1)[None])
    assert set(found) == set(expected)
    for task, output in expected.items():
        np.testing.assert_allclose(found[task].reshape(output.shape), output, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An int8 bundle of a network that has learned to tell some classes apart, and rooms to show to it."""
    pytest.importorskip("torch")
    from edgemtl import workflow
    from edgemtl.export import Export, Lowering
    from tests.tiny import tiny

    folder = tmp_path_factory.mktemp("int8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workflow, "illustrate", lambda _: None)
        run = workflow.train(tiny("kernel=plain", "training.epochs=40"), folder / "run")
    workflow.collapse(run, evaluate=False)
    spec = Export(precision="int8", layouts=("merged",), lowering=Lowering(images=16))
    workflow.export(run, folder / "bundle", spec)
    rooms = run.recipe.data.dataset("train")
    for index in range(ROOMS):
        np.save(folder / f"{index}.npy", rooms[index].image.permute(1, 2, 0).numpy())
    return folder


def test_int8_gives_the_same_classes_and_depths(int8: Path) -> None:
    """ONNX Runtime has other int8 kernels here, which may round a value to the step above or below."""
    runner = pytest.importorskip("edgemtl.runtime.runner").BundleRunner(int8 / "bundle", threads=1)
    names = [f"{index}.npy" for index in range(ROOMS)]
    arm64("-m", "edgemtl", "run", "bundle", *names, "--threads", 1, cwd=int8)
    expected = runner.run_all(np.stack([np.load(int8 / name).transpose(2, 0, 1) for name in names]))
    archives = [np.load(int8 / f"predictions/{index}.npz") for index in range(ROOMS)]
    found = {task: np.stack([archive[task] for archive in archives]) for task in expected}
    classes = expected["segmentation"].argmax(1)
    shares = np.bincount(classes.flat) / classes.size
    assert (shares > 0.05).sum() >= 2, "one class everywhere would be equal anyhow"
    assert (found["segmentation"].argmax(1) == classes).mean() >= SAME_CLASSES
    assert np.abs(found["depth"] - expected["depth"]).max() <= DEPTH_M


def test_bench_measures_every_way(bundle: Path, tmp_path: Path) -> None:
    words = ["--json", "--threads", 1, "--duration", 0.01, "--repeats", 2, "--warmup-ms", 1]
    report = json.loads(arm64("-m", "edgemtl", "bench", bundle, *words, cwd=tmp_path))
    assert report["device"]["machine"] == "aarch64"
    assert set(report["layouts"]) == set(read_manifest(bundle).layouts)
    assert all(measure["load_ms"] > 0 for measure in report["layouts"].values())


def test_doctor_finds_nothing_broken(tmp_path: Path) -> None:
    report = json.loads(arm64("-m", "edgemtl", "doctor", "--json", cwd=tmp_path))
    found = {finding["name"]: finding for finding in report["findings"]}
    assert found["onnxruntime"]["state"] == "ok"
    assert found["torch"]["state"] == "absent"
    assert found["edgemtl[ort]"]["state"] == "ok"
