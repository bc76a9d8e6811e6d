"""The CUDA driver through ctypes: memory, a stream, its timing and its graphs; all that an engine needs.

``libcuda.so.1`` comes with the driver of every GPU, on a Jetson and in its containers, with one name and one
ABI. cuda-python would have to be installed, and libcudart is named otherwise in every version of CUDA. The
signatures and numbers are those of ``cuda.h``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p
from functools import partial
from pathlib import Path
from typing import Any
from weakref import finalize

from edgemtl.core.errors import SetupError
from edgemtl.runtime.session import Array

_ADDRESS, _HANDLE, _NEW = c_uint64, c_void_p, POINTER(c_void_p)
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDevicePrimaryCtxRetain": (_NEW, c_int),
    "cuCtxSetCurrent": (_HANDLE,),
    "cuMemGetInfo_v2": (POINTER(c_size_t), POINTER(c_size_t)),
    "cuMemAlloc_v2": (POINTER(_ADDRESS), c_size_t),
    "cuMemFree_v2": (_ADDRESS,),
    "cuMemcpyHtoDAsync_v2": (_ADDRESS, c_void_p, c_size_t, _HANDLE),
    "cuMemcpyDtoHAsync_v2": (c_void_p, _ADDRESS, c_size_t, _HANDLE),
    "cuStreamCreate": (_NEW, c_uint),
    "cuStreamSynchronize": (_HANDLE,),
    "cuStreamDestroy_v2": (_HANDLE,),
    "cuStreamBeginCapture_v2": (_HANDLE, c_int),
    "cuStreamEndCapture": (_HANDLE, _NEW),
    "cuEventCreate": (_NEW, c_uint),
    "cuEventRecord": (_HANDLE, _HANDLE),
    "cuEventElapsedTime": (POINTER(c_float), _HANDLE, _HANDLE),
    "cuEventDestroy_v2": (_HANDLE,),
    "cuGraphInstantiateWithFlags": (_NEW, _HANDLE, c_uint64),
    "cuGraphLaunch": (_HANDLE, _HANDLE),
    "cuGraphDestroy": (_HANDLE,),
    "cuGraphExecDestroy": (_HANDLE,),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
}
MEMORY = Path("/proc/meminfo")
_INTEGRATED, _CAPABILITY_MAJOR, _CAPABILITY_MINOR = 18, 75, 76  # CU_DEVICE_ATTRIBUTE_*
_NON_BLOCKING, _THREAD_LOCAL = 1, 1  # CU_STREAM_NON_BLOCKING, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
_OUT_OF_MEMORY, _NO_DEVICE = 2, 100  # of CUresult
_FIXES = {
    _OUT_OF_MEMORY: "Close other programs to free memory, or run a smaller batch.",
    _NO_DEVICE: "Run it on the board, or here with EDGEMTL_RUNTIME=ort.",
}


class Gpu:
    """The first GPU that this process may see (``CUDA_VISIBLE_DEVICES`` chooses), in TensorRT's own context.

    ``capability`` is its compute capability, such as ``8.7``.

    Raises:
        SetupError: there is no driver or no GPU.
    """

    def __init__(self) -> None:
        self._driver = _load()
        device, name = c_int(), ctypes.create_string_buffer(256)
        self._context = c_void_p()
        self.call("cuInit", 0)
        self.call("cuDeviceGet", byref(device), 0)
        self.call("cuDeviceGetName", name, len(name), device)
        self.call("cuDevicePrimaryCtxRetain", byref(self._context), device)
        major, minor = (self._attribute(device, number) for number in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR))
        self.name, self.capability = name.value.decode(), f"{major}.{minor}"
        self._integrated = bool(self._attribute(device, _INTEGRATED))
        self.enter()

    def enter(self) -> None:
        """Make this GPU the one that the calling thread works on."""
        self.call("cuCtxSetCurrent", self._context)

    def free_bytes(self) -> int:
        """Memory that can be had; on a Jetson, of the whole board.

        Where the GPU shares the memory of the CPU, its driver leaves out the cache of files that the system
        gives up when memory is asked for: after a model was copied there, nearly all of it.
        """
        free, total = c_size_t(), c_size_t()
        self.call("cuMemGetInfo_v2", byref(free), byref(total))
        return max(free.value, _available_bytes()) if self._integrated else free.value

    def call(self, function: str, *arguments: object) -> None:
        """Call the driver.

        Raises:
            SetupError: it failed.
        """
        status = self._driver[function](*arguments)
        if status:
            reason = c_char_p()
            self._driver["cuGetErrorString"](status, byref(reason))
            raise SetupError(
                "GPU",
                expected=f"{function} to succeed",
                found=f"CUDA error {status}, {(reason.value or b'unknown').decode()}",
                fix=_FIXES.get(status, "Does `nvidia-smi`, or `tegrastats` on a Jetson, show a sound GPU?"),
            )

    def _attribute(self, device: c_int, number: int) -> int:
        value = c_int()
        self.call("cuDeviceGetAttribute", byref(value), number, device)
        return value.value

    def new(self, function: str, *arguments: object) -> c_void_p:
        """The handle that a function of the driver makes."""
        handle = c_void_p()
        self.call(function, byref(handle), *arguments)
        return handle

    def release_with(self, owner: object, function: str, handle: object) -> finalize[Any, Any]:
        """Give ``handle`` back when ``owner`` is collected, or when what returns is called."""
        return finalize(owner, self._release, function, handle)

    def _release(self, function: str, handle: object) -> None:
        # Any thread may collect, so its context must be set; no error helps anyone here.
        self._driver["cuCtxSetCurrent"](self._context)
        self._driver[function](handle)


class Buffer:
    """Memory of the GPU that grows when it must and is reused otherwise. ``address`` is 0 before."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu, self._bytes = gpu, 0
        self._free: Callable[[], object] = lambda: None
        self.address = 0

    def reserve(self, size: int) -> None:
        """Have at least ``size`` bytes; what was there may be lost."""
        if size <= self._bytes:
            return
        self._free()  # first, so that both never need room at once
        self.address, self._bytes = 0, 0
        address = _ADDRESS()
        self._gpu.call("cuMemAlloc_v2", byref(address), size)
        self.address, self._bytes = address.value, size
        self._free = self._gpu.release_with(self, "cuMemFree_v2", address)


class Stream:
    """Work for the GPU, done in order, with a clock."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._stream = self._own(gpu.new("cuStreamCreate", _NON_BLOCKING), "cuStreamDestroy_v2")
        self._start = self._own(gpu.new("cuEventCreate", 0), "cuEventDestroy_v2")
        self._stop = self._own(gpu.new("cuEventCreate", 0), "cuEventDestroy_v2")
        self.handle = self._stream.value or 0

    def upload(self, array: Array, buffer: Buffer) -> None:
        """Copy a contiguous array into a buffer that has room for it."""
        pointer = array.ctypes.data
        self._gpu.call("cuMemcpyHtoDAsync_v2", buffer.address, pointer, array.nbytes, self._stream)

    def download(self, buffer: Buffer, array: Array) -> None:
        """Fill a contiguous array from a buffer; it is full after ``wait``."""
        pointer = array.ctypes.data
        self._gpu.call("cuMemcpyDtoHAsync_v2", pointer, buffer.address, array.nbytes, self._stream)

    def wait(self) -> None:
        """Until all is done."""
        self._gpu.call("cuStreamSynchronize", self._stream)

    def timed(self, enqueue: Callable[[], None]) -> None:
        """Enqueue work between the two events that ``elapsed_ms`` reads."""
        self._gpu.call("cuEventRecord", self._start, self._stream)
        enqueue()
        self._gpu.call("cuEventRecord", self._stop, self._stream)

    def elapsed_ms(self) -> float:
        """What the GPU took for the work that was timed last, once it is done."""
        elapsed_ms = c_float()
        self._gpu.call("cuEventElapsedTime", byref(elapsed_ms), self._start, self._stop)
        return elapsed_ms.value

    def record(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        """A function that repeats, as one CUDA graph and with one launch, what ``enqueue`` enqueues.

        Raises:
            SetupError: it does what a graph cannot hold, such as waiting for the GPU.
        """
        graph = c_void_p()
        self._gpu.call("cuStreamBeginCapture_v2", self._stream, _THREAD_LOCAL)
        try:
            enqueue()
        finally:  # or the stream would never run anything again
            self._gpu.call("cuStreamEndCapture", self._stream, byref(graph))
        ready = self._gpu.new("cuGraphInstantiateWithFlags", graph, 0)
        self._gpu.call("cuGraphDestroy", graph)
        launch = partial(self._gpu.call, "cuGraphLaunch", ready, self._stream)
        self._gpu.release_with(launch, "cuGraphExecDestroy", ready)
        return launch

    def _own(self, handle: c_void_p, release: str) -> c_void_p:
        self._gpu.release_with(self, release, handle)
        return handle


def _available_bytes() -> int:
    """What the system says that a program could take; 0 where it says nothing."""
    try:
        lines = MEMORY.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), 0)


def _load() -> dict[str, Callable[..., int]]:
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise SetupError(
            "GPU",
            expected="an NVIDIA driver",
            found=str(error),
            fix="Run it on the board (in a container, with `--runtime nvidia`) or with EDGEMTL_RUNTIME=ort.",
        ) from error
    functions = {name: getattr(library, name) for name in _SIGNATURES}
    for name, types in _SIGNATURES.items():
        functions[name].argtypes = types
    return functions
