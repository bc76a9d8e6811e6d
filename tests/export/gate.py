"""The gate of TensorRT: its RTX edition parses and builds without a GPU, so this runs everywhere."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from edgemtl.runtime.build import Build, TensorRt

# The Jetson Orin (8.7) is close to this GPU; TensorRT-RTX builds for none of its own.
ORIN = "SM86"


def serialized(path: Path, batch: tuple[int, int], capability: str = ORIN) -> bytes:
    """The engine of an ONNX file; skips the test that asks where TensorRT-RTX is missing."""
    tensorrt = tensorrt_rtx()
    parsed = Build(tensorrt, path, batch)
    parsed.config.num_compute_capabilities = 1
    capabilities = tensorrt.module.ComputeCapability.__members__
    parsed.config.set_compute_capability(capabilities[capability], 0)
    return parsed.serialize(workspace_bytes=1 << 28)


@cache
def tensorrt_rtx() -> TensorRt:
    return TensorRt(pytest.importorskip("tensorrt_rtx", reason="needs edgemtl[trt]: no tensorrt_rtx"))
