"""What takes seconds to make and many tests read: real data, and a tiny run with its bundle."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Real data: EDGEMTL_DATA, or ../shared/data beside the repository.
SHARED = Path(os.environ.get("EDGEMTL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


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
