"""A GPU made of host memory: the functions of libcuda.so.1 that edgemtl calls.

Work is queued and done only when the stream is waited for, as late as CUDA may do it. The prototypes are
written after cuda.h, apart from those of edgemtl.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, c_char, c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p
from types import SimpleNamespace
from typing import Any

import numpy as np

NEW = POINTER(c_void_p)
CONTEXT, STREAM, EVENT = 0x7F00000000C0, 0x7F0000000510, 0x7F0000000E00  # handles of more than 32 bits
DRIVER: dict[str, tuple[tuple[Any, ...], Any]] = {}


def driver(name: str, *types: Any) -> Callable[[Any], Any]:
    """A method of FakeGpu that is a function of the driver."""

    def add(method: Any) -> Any:
        DRIVER[name] = (types, method)
        return method

    return add


class FakeGpu:
    """A driver's state. ``fails`` maps functions to the status they return; ``calls`` counts them; ``alive``
    counts what was made and not yet given back."""

    def __init__(
        self,
        name: str = "Orin",
        capability: tuple[int, int] = (8, 7),
        integrated: bool = False,
        free_bytes: int = 3 << 30,
        dla_cores: int = 2,
    ) -> None:
        self.name, self.capability, self.integrated = name, capability, integrated
        self.free_bytes, self.dla_cores = free_bytes, dla_cores
        self.fails: dict[str, int] = {}
        self.calls: dict[str, int] = {}
        self.memory: dict[int, Any] = {}
        self.graphs: list[list[Callable[[], None]]] = []
        self.recording: list[Callable[[], None]] | None = None
        self.queue: list[Callable[[], None]] = []
        self.alive: dict[str, int] = {}

    def view(self, address: int, size: int) -> np.ndarray:
        """The bytes at an address, which must lie inside what was allocated."""
        # Of a copy: the collector may come in between, and what it finds frees its memory.
        start = max(start for start in list(self.memory) if start <= address)
        assert address + size <= start + len(self.memory[start]), "outside its buffer"
        return np.frombuffer(self.memory[start], np.uint8)[address - start : address - start + size]

    def put(self, work: Callable[[], None]) -> None:
        """Add to the graph that is being recorded, or else to the queue."""
        (self.queue if self.recording is None else self.recording).append(work)

    def library(self) -> SimpleNamespace:
        """What ``ctypes.CDLL("libcuda.so.1")`` gives."""
        functions = {
            name: CFUNCTYPE(c_int, *types)(self._status(name, method))
            for name, (types, method) in DRIVER.items()
        }
        return SimpleNamespace(**functions)

    def _status(self, name: str, method: Callable[..., None]) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            self.calls[name] = self.calls.get(name, 0) + 1
            if name not in self.fails:
                method(self, *arguments)
            return self.fails.get(name, 0)

        return call

    def _new(self, kind: str, where: Any, value: int) -> None:
        where[0] = value
        self.alive[kind] = self.alive.get(kind, 0) + 1

    def _gone(self, kind: str) -> None:
        self.alive[kind] -= 1

    @driver("cuInit", c_uint)
    def _init(self, _: int) -> None: ...

    @driver("cuDeviceGet", POINTER(c_int), c_int)
    def _device_get(self, where: Any, number: int) -> None:
        where[0] = number

    @driver("cuDeviceGetName", POINTER(c_char), c_int, c_int)
    def _device_get_name(self, where: Any, size: int, _: int) -> None:
        ctypes.memmove(where, self.name.encode()[: size - 1] + b"\0", len(self.name) + 1)

    @driver("cuDeviceGetAttribute", POINTER(c_int), c_int, c_int)
    def _device_get_attribute(self, where: Any, attribute: int, _: int) -> None:
        where[0] = {18: int(self.integrated), 75: self.capability[0], 76: self.capability[1]}[attribute]

    @driver("cuDevicePrimaryCtxRetain", NEW, c_int)
    def _device_primary_ctx_retain(self, where: Any, _: int) -> None:
        where[0] = CONTEXT

    @driver("cuCtxSetCurrent", c_void_p)
    def _ctx_set_current(self, context: int) -> None:
        assert context == CONTEXT

    @driver("cuMemGetInfo_v2", POINTER(c_size_t), POINTER(c_size_t))
    def _mem_get_info(self, free: Any, total: Any) -> None:
        free[0], total[0] = self.free_bytes, 8 << 30

    @driver("cuMemAlloc_v2", POINTER(c_uint64), c_size_t)
    def _mem_alloc(self, where: Any, size: int) -> None:
        memory = (ctypes.c_uint8 * size)()
        address = ctypes.addressof(memory)
        self.memory[address] = memory
        self._new("memory", where, address)

    @driver("cuMemFree_v2", c_uint64)
    def _mem_free(self, address: int) -> None:
        del self.memory[address]
        self._gone("memory")

    @driver("cuMemcpyHtoDAsync_v2", c_uint64, c_void_p, c_size_t, c_void_p)
    def _memcpy_htod_async(self, target: int, source: int, size: int, _: int) -> None:
        self.view(target, size)
        self.put(lambda: ctypes.memmove(target, source, size))

    @driver("cuMemcpyDtoHAsync_v2", c_void_p, c_uint64, c_size_t, c_void_p)
    def _memcpy_dtoh_async(self, target: int, source: int, size: int, _: int) -> None:
        self.view(source, size)
        self.put(lambda: ctypes.memmove(target, source, size))

    @driver("cuStreamCreate", NEW, c_uint)
    def _stream_create(self, where: Any, _: int) -> None:
        self._new("stream", where, STREAM)

    @driver("cuStreamDestroy_v2", c_void_p)
    def _stream_destroy(self, _: int) -> None:
        self._gone("stream")

    @driver("cuStreamSynchronize", c_void_p)
    def _stream_synchronize(self, _: int) -> None:
        assert self.recording is None, "a graph cannot wait"
        queue, self.queue = self.queue, []
        for work in queue:
            work()

    @driver("cuStreamBeginCapture_v2", c_void_p, c_int)
    def _stream_begin_capture(self, _: int, __: int) -> None:
        self.recording = []

    @driver("cuStreamEndCapture", c_void_p, NEW)
    def _stream_end_capture(self, _: int, where: Any) -> None:
        assert self.recording is not None
        self.graphs.append(self.recording)
        self.recording = None
        self._new("graph", where, len(self.graphs))

    @driver("cuEventCreate", NEW, c_uint)
    def _event_create(self, where: Any, _: int) -> None:
        self._new("event", where, EVENT + self.calls["cuEventCreate"])

    @driver("cuEventDestroy_v2", c_void_p)
    def _event_destroy(self, _: int) -> None:
        self._gone("event")

    @driver("cuEventRecord", c_void_p, c_void_p)
    def _event_record(self, event: int, stream: int) -> None:
        assert (event > EVENT, stream) == (True, STREAM)

    @driver("cuEventElapsedTime", POINTER(c_float), c_void_p, c_void_p)
    def _event_elapsed_time(self, where: Any, start: int, stop: int) -> None:
        assert start < stop
        where[0] = 1.5

    @driver("cuGraphInstantiateWithFlags", NEW, c_void_p, c_uint64)
    def _graph_instantiate_with_flags(self, where: Any, graph: int, _: int) -> None:
        self._new("launchable", where, graph)

    @driver("cuGraphLaunch", c_void_p, c_void_p)
    def _graph_launch(self, graph: int, _: int) -> None:
        self.queue.extend(self.graphs[graph - 1])

    @driver("cuGraphDestroy", c_void_p)
    def _graph_destroy(self, _: int) -> None:
        self._gone("graph")

    @driver("cuGraphExecDestroy", c_void_p)
    def _graph_exec_destroy(self, _: int) -> None:
        self._gone("launchable")

    @driver("cuGetErrorString", c_int, POINTER(c_char_p))
    def _get_error_string(self, status: int, where: Any) -> None:
        where[0] = {2: b"out of memory", 100: b"no CUDA-capable device is detected"}[status]
