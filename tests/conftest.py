"""What takes seconds to make and many tests read: real data, and a tiny run with its bundle. And the gate of
TensorRT that every bundle goes through."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgemtl.core.bundle import Manifest, sha256

if TYPE_CHECKING:
    from edgemtl.run import Run

# Real data: EDGEMTL_DATA, or ../shared/data beside the repository.
SHARED = Path(os.environ.get("EDGEMTL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One worker runs what shares the chain or the exports of a file: each other would make them again."""
    for item in items:
        if "typed_chain" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("typed_chain"))
        elif item.path.parent.name == "export":
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(scope="session")
def nyuv2_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 8 real NYUv2 images of each split at 72x96, in the layout of the MTAN release."""
    script = SHARED / "prepare_nyuv2.py"
    if not script.is_file():
        pytest.skip(f"no NYUv2 at {SHARED}; set EDGEMTL_DATA")
    root = tmp_path_factory.mktemp("nyuv2")
    command = [sys.executable, str(script), str(root), "--size", "72", "96", "--limit", "8"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return root


@pytest.fixture(scope="session")
def typed_chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the chain was typed as the README has it, each verb finding the newest subject: copy
    it, or what you need of it."""
    pytest.importorskip("torch")
    from tests.tiny import as_yaml
    from tests.typed import edgemtl

    folder = tmp_path_factory.mktemp("chain")
    (folder / "tiny.yaml").write_text(as_yaml())
    trained = edgemtl("train", "tiny.yaml", cwd=folder)
    assert trained.stdout.strip() == "runs/tiny"
    assert len([line for line in trained.stderr.splitlines() if line.startswith("epoch ")]) == 3
    edgemtl("collapse", cwd=folder)
    assert edgemtl("export", cwd=folder).stdout.strip() == "runs/tiny/bundles/onnx-fp32"
    return folder


@pytest.fixture(scope="module")
def run(typed_chain: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A module's own copy of the run of that chain: trained, collapsed, exported."""
    from edgemtl.run import Run

    return Run.open(Path(shutil.copytree(typed_chain / "runs/tiny", tmp_path_factory.mktemp("copy") / "run")))


@pytest.fixture(scope="session", autouse=True)
def gated() -> Iterator[set[str]]:
    """TensorRT-RTX parses and builds every file of every bundle that a test exports, once for each hash: what
    it does not take fails that test. Holds the hashes that passed. uint8 is for ONNX Runtime alone.
    """
    passed: set[str] = set()
    if find_spec("torch") is None or find_spec("tensorrt_rtx") is None:
        yield passed
        return
    from edgemtl.export import bundle
    from tests.export.gate import serialized

    write_manifest = bundle.write_manifest

    def gate(folder: Path, manifest: Manifest) -> None:
        taken = manifest.lowered is None or manifest.lowered.activations != "uint8"
        for file in (file for files in manifest.layouts.values() for file in files if taken):
            digest = sha256(folder / file.path)
            if digest not in passed:
                assert serialized(folder / file.path, manifest.input.batch)
                passed.add(digest)
        write_manifest(folder, manifest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "write_manifest", gate)
        yield passed
