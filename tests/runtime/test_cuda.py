from __future__ import annotations

import gc
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from edgemtl.core.errors import SetupError
from edgemtl.runtime import cuda
from edgemtl.runtime.cuda import Buffer, Gpu, Stream
from tests.runtime.conftest import Install
from tests.runtime.fake_cuda import FakeGpu

pytest.importorskip("onnxruntime")


def test_a_gpu_says_what_it_is(install: Install) -> None:
    install(gpu=FakeGpu("Thor", (11, 0)))
    gpu = Gpu()
    assert (gpu.name, gpu.capability, gpu.free_bytes()) == ("Thor", "11.0", 3 << 30)


@pytest.mark.parametrize(("integrated", "free_mib"), [(False, 100), (True, 2000)])
def test_a_gpu_that_shares_memory_counts_what_the_system_gives_up(
    integrated: bool, free_mib: int, install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: 7990000 kB\nMemAvailable: {2000 * 1024} kB\n")
    monkeypatch.setattr(cuda, "MEMORY", meminfo)
    install(gpu=FakeGpu(integrated=integrated, free_bytes=100 << 20))
    assert Gpu().free_bytes() == free_mib << 20
    meminfo.unlink()
    assert Gpu().free_bytes() == 100 << 20


def test_bytes_go_there_and_back_in_order(install: Install) -> None:
    install()
    gpu = Gpu()
    stream, buffer = Stream(gpu), Buffer(gpu)
    sent, received = np.arange(1000, dtype=np.float32), np.zeros(1000, np.float32)
    buffer.reserve(sent.nbytes)
    stream.upload(sent, buffer)
    stream.download(buffer, received)
    assert not received.any()
    stream.wait()
    np.testing.assert_array_equal(received, sent)


def test_a_buffer_grows_and_never_shrinks(install: Install) -> None:
    fake = install()
    buffer = Buffer(Gpu())
    buffer.reserve(100)
    address = buffer.address
    buffer.reserve(10)
    assert buffer.address == address
    buffer.reserve(101)
    assert [len(memory) for memory in fake.memory.values()] == [101]


def test_a_buffer_that_found_no_room_can_be_asked_for_less(install: Install) -> None:
    fake = install()
    buffer = Buffer(Gpu())
    buffer.reserve(100)
    fake.fails["cuMemAlloc_v2"] = 2
    with pytest.raises(SetupError, match=r"CUDA error 2, out of memory\. Close other programs"):
        buffer.reserve(200)
    assert (buffer.address, fake.memory) == (0, {})
    del fake.fails["cuMemAlloc_v2"]
    buffer.reserve(50)
    assert [len(memory) for memory in fake.memory.values()] == [50]


def test_a_graph_repeats_what_was_recorded(install: Install) -> None:
    install()
    gpu = Gpu()
    stream, buffer = Stream(gpu), Buffer(gpu)
    buffer.reserve(8)
    sent, received = np.array([1, 2], np.float32), np.zeros(2, np.float32)
    stream.upload(sent, buffer)
    replay = stream.record(lambda: stream.download(buffer, received))
    stream.wait()
    assert not received.any()
    replay()
    stream.wait()
    np.testing.assert_array_equal(received, sent)


def test_a_failed_recording_leaves_the_stream_usable(install: Install) -> None:
    fake = install()
    stream = Stream(Gpu())

    def broken() -> None:
        raise RuntimeError("cannot be recorded")

    with pytest.raises(RuntimeError, match="cannot be recorded"):
        stream.record(broken)
    assert fake.recording is None
    stream.wait()


def test_all_is_given_back(install: Install) -> None:
    fake = install()
    gpu = Gpu()
    stream, buffer = Stream(gpu), Buffer(gpu)
    buffer.reserve(8)
    replay = stream.record(lambda: None)
    assert fake.alive == {"stream": 1, "event": 2, "memory": 1, "graph": 0, "launchable": 1}
    del stream, buffer, replay
    gc.collect()
    assert set(fake.alive.values()) == {0}


def test_every_thread_must_enter(install: Install) -> None:
    fake = install()
    gpu = Gpu()
    before = fake.calls["cuCtxSetCurrent"]
    thread = Thread(target=gpu.enter)
    thread.start()
    thread.join()
    assert fake.calls["cuCtxSetCurrent"] == before + 1


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr("ctypes.CDLL", missing)
    with pytest.raises(
        SetupError, match=r"GPU: expected an NVIDIA driver, found libcuda\.so\.1.*on the board"
    ):
        Gpu()


def test_a_driver_without_a_gpu(install: Install) -> None:
    install().fails["cuInit"] = 100
    with pytest.raises(
        SetupError, match=r"error 100, no CUDA-capable device is detected\. Run it on the board"
    ):
        Gpu()
