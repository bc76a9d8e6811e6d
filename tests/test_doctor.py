"""doctor on this machine, on recorded boards, and where something is broken."""

from __future__ import annotations

import json
import shutil
import sys
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import pytest

from edgemtl import doctor
from edgemtl.cli import main
from edgemtl.core.diagnosis import Finding
from edgemtl.doctor import _packages, diagnose
from tests.bench.boards import BOARDS, NAMES, ORIN_NANO

Usage = namedtuple("Usage", "total used free")


def findings(root: Path = Path("/")) -> dict[str, Finding]:
    return {finding.name: finding for finding in diagnose(root).findings}


def broken_module(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is found and fails when it is imported, in a process of its own."""
    (folder / f"{name}.py").write_text("raise ImportError('lib of another machine')\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.syspath_prepend(folder)


def script(folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


@pytest.fixture(scope="module")
def here() -> dict[str, Finding]:
    return findings()


def test_this_machine_works(here: dict[str, Finding]) -> None:
    assert {finding.state for finding in here.values()} <= {"ok", "absent"}
    for name in "edgemtl", "python", "memory", "disk":
        assert here[name].state == "ok"


def test_what_is_absent_comes_with_what_to_do(here: dict[str, Finding]) -> None:
    assert all(finding.fix for finding in here.values() if finding.state == "absent")


@pytest.mark.parametrize("package", ["onnxruntime", "torch"])
def test_packages_are_found_as_they_are_installed(here: dict[str, Finding], package: str) -> None:
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:
        assert here[package].state == "absent"
        assert "pip install" in here[package].fix
    else:
        assert here[package].state == "ok"
        assert version.partition("+")[0] in here[package].found


def test_torch_is_not_loaded() -> None:
    # In this process another test may have; a process of its own is in test_architecture.py.
    before = "torch" in sys.modules
    diagnose()
    assert ("torch" in sys.modules) == before


@pytest.mark.parametrize("name", NAMES)
def test_boards_name_themselves_and_nothing_else_does(name: str) -> None:
    found = findings(BOARDS / name)["board"]
    assert (found.state == "ok") == ("jetson" in found.found.lower())
    assert (found.state == "absent") == name.startswith("desktop")


def test_orin_nano() -> None:
    found = findings(ORIN_NANO)
    assert found["board"].found == (
        "NVIDIA Jetson Orin Nano Developer Kit, L4T 36.4.3, JetPack 6.2, nvpmodel MAXN_SUPER"
    )
    assert found["gpu"].found.startswith("integrated")
    assert found["memory"].state == "absent", "the tree does not say how much is free"


def test_trtexec_is_found_where_nvidia_puts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert findings(tmp_path)["trtexec"].state == "absent"
    path = tmp_path / doctor.TRTEXEC
    path.parent.mkdir(parents=True)
    path.touch()
    assert findings(tmp_path)["trtexec"] == Finding("trtexec", "ok", str(path))


def test_a_runtime_that_does_not_load_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken_module(tmp_path, "onnxruntime", monkeypatch)
    found = findings()["onnxruntime"]
    assert found.state == "broken"
    assert found.found == "ImportError: lib of another machine"
    assert "onnxruntime" in found.fix


def test_a_driver_that_does_not_answer_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, "nvidia-smi", "echo 'Driver/library version mismatch'; exit 18", monkeypatch)
    assert findings()["gpu"].state == "broken"
    assert "mismatch" in findings()["gpu"].found
    script(tmp_path, "nvidia-smi", "echo 'NVIDIA RTX 4090, 24564 MiB, 570.86'", monkeypatch)
    assert findings()["gpu"] == Finding("gpu", "ok", "NVIDIA RTX 4090, 24564 MiB, 570.86")


def test_a_full_disk_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 2**40 - 2**20, 2**20))
    assert findings()["disk"].state == "broken"


def test_a_process_that_hangs_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, "nvidia-smi", "exec /bin/sleep 20", monkeypatch)
    monkeypatch.setattr(doctor, "TIMEOUT_S", 0.3)
    assert "timed out" in findings()["gpu"].found


def test_only_what_is_broken_fails_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["edgemtl", "doctor", "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert json.loads(capsys.readouterr().out)["kind"] == "doctor"
    broken_module(tmp_path, "onnxruntime", monkeypatch)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 4
    out, err = capsys.readouterr()
    assert json.loads(out)["findings"]
    assert "doctor: expected nothing broken, found onnxruntime" in err


def test_an_extra_has_the_packages_of_the_extras_in_it() -> None:
    needs = [
        "numpy>=1",
        'onnxruntime>=1.20; extra == "ort"',
        'edgemtl[ort]; extra == "desk"',
        'torch<2.14,>=2.6; extra == "desk"',
        'edgemtl[desk]; extra == "timm"',
        'timm; extra == "timm"',
    ]
    assert _packages("timm", needs) == ["onnxruntime", "torch", "timm"]
