"""A GPU and a TensorRT for the tests of those that have neither."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgemtl.runtime.build import PACKAGES, tensorrt
from tests.runtime.fake_cuda import FakeGpu

Install = Callable[..., FakeGpu]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Install]:
    """``install(version, gpu)`` puts a fake GPU and a fake tensorrt where edgemtl looks for them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def on(version: str = "10.3.0", gpu: FakeGpu | None = None, package: str = "tensorrt") -> FakeGpu:
        from tests.runtime.fake_tensorrt import fake_tensorrt  # needs onnxruntime

        gpu = gpu or FakeGpu()
        library = gpu.library()
        monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
        for name in PACKAGES:
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setitem(sys.modules, package, fake_tensorrt(gpu, version, package))
        tensorrt.cache_clear()
        return gpu

    yield on
    tensorrt.cache_clear()
