"""Real data for the tests that need it: EDGEMTL_DATA, or ../shared/data beside the repository."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
