"""The gate of TensorRT over every bundle for a board that a test of this folder writes."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from edgemtl.core.bundle import Manifest, sha256
from tests.export.gate import serialized


@pytest.fixture(scope="session", autouse=True)
def gated() -> Iterator[set[str]]:
    """TensorRT-RTX parses and builds the files of a bundle, once for each hash: what it does not take fails
    the test. Holds the hashes that passed.
    """
    passed: set[str] = set()
    if find_spec("torch") is None or find_spec("tensorrt_rtx") is None:
        yield passed
        return
    from edgemtl.export import bundle

    write_device_files = bundle.write_device_files

    def gate(folder: Path, manifest: Manifest, *rest: Any) -> None:
        for file in (file for files in manifest.layouts.values() for file in files):
            digest = sha256(folder / file.path)
            if digest not in passed:
                assert serialized(folder / file.path, manifest.input.batch)
                passed.add(digest)
        write_device_files(folder, manifest, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "write_device_files", gate)
        yield passed
