"""A layout of the bundle on this device's GPU: engines in a row, with every tensor in device memory. Tested
with stand-ins for CUDA and TensorRT; it has not been run on a GPU yet.

Needs Python 3.8, numpy, and what JetPack brings: tensorrt (8.5 or newer) and CUDA's driver.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

HERE = Path(__file__).resolve().parent
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_* of cuda.h


def fail(status: int, where: object, expected: str, found: str, fix: str) -> NoReturn:
    """One line for a person, an exit status for a script."""
    print(f"error: {where}: expected {expected}, found {found}. {fix}", file=sys.stderr)
    raise SystemExit(status)


def read_manifest() -> dict[str, Any]:
    """The manifest of the bundle that this script lies in."""
    manifest: dict[str, Any] = json.loads((HERE / "manifest.json").read_text())
    return manifest


class Cuda:
    """What is needed of CUDA's driver, through ctypes: it has one name everywhere, and boards often lack a
    Python binding. Works in the context that TensorRT uses too, the primary one of the first GPU.
    ``capability`` is the compute capability of that GPU, such as ``8.7``.
    """

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(os.environ.get("EDGEMTL_LIBCUDA", "libcuda.so.1"))
        except OSError as error:
            fail(4, "CUDA", "its driver", str(error), "Run this on the device; name it in EDGEMTL_LIBCUDA.")
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self.stream = ctypes.c_void_p()
        self("cuInit", ctypes.c_uint(0))
        self("cuDeviceGet", ctypes.byref(device), ctypes.c_int(0))
        self.capability = ".".join(
            str(self._attribute(device, number)) for number in (CAPABILITY_MAJOR, CAPABILITY_MINOR)
        )
        self("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self("cuCtxSetCurrent", context)
        self("cuStreamCreate", ctypes.byref(self.stream), ctypes.c_uint(1))  # apart from the default stream

    def __call__(self, name: str, *arguments: object) -> None:
        """Call a function of the driver, or end with the error that it returned."""
        status = getattr(self._library, name)(*arguments)
        if status:
            fail(4, "CUDA", f"{name} to succeed", f"CUresult {status}", "2 is too little memory, 100 no GPU.")

    def pinned(self, shape: tuple[int, ...], dtype: str) -> Any:
        """An array in page-locked memory, which lives as long as the process: to and from any other memory,
        the driver copies only once it has waited for all that was put on the stream before.
        """
        address = ctypes.c_void_p()
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self("cuMemHostAlloc", ctypes.byref(address), ctypes.c_size_t(size), ctypes.c_uint(0))
        memory = np.ctypeslib.as_array((ctypes.c_ubyte * size).from_address(address.value or 0))
        return memory.view(dtype).reshape(shape)

    def allocate(self, size: int) -> int:
        """The address of ``size`` new bytes on the device; they live as long as the process."""
        address = ctypes.c_uint64()
        self("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value

    def upload(self, address: int, array: Any) -> None:
        """Copy an array to the device, on the stream."""
        pointers = ctypes.c_uint64(address), ctypes.c_void_p(array.ctypes.data)
        self("cuMemcpyHtoDAsync_v2", *pointers, ctypes.c_size_t(array.nbytes), self.stream)

    def download(self, array: Any, address: int) -> None:
        """Copy from the device into an array, on the stream."""
        pointers = ctypes.c_void_p(array.ctypes.data), ctypes.c_uint64(address)
        self("cuMemcpyDtoHAsync_v2", *pointers, ctypes.c_size_t(array.nbytes), self.stream)

    def wait(self) -> None:
        """Until all that was put on the stream is done."""
        self("cuStreamSynchronize", self.stream)

    def event(self) -> ctypes.c_void_p:
        """A new event, to be recorded on the stream."""
        event = ctypes.c_void_p()
        self("cuEventCreate", ctypes.byref(event), ctypes.c_uint(0))
        return event

    def record(self, event: ctypes.c_void_p) -> None:
        """Note the time at which the stream comes to here."""
        self("cuEventRecord", event, self.stream)

    def elapsed_ms(self, start: ctypes.c_void_p, end: ctypes.c_void_p) -> float:
        """Milliseconds on the device between two events that have happened."""
        elapsed = ctypes.c_float()
        self("cuEventElapsedTime", ctypes.byref(elapsed), start, end)
        return elapsed.value

    def _attribute(self, device: ctypes.c_int, number: int) -> int:
        value = ctypes.c_int()
        self("cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(number), device)
        return value.value


def check_options(manifest: dict[str, Any], layout: str, batch: int) -> None:
    """Refuse a layout that the bundle lacks, or a batch that it does not take."""
    if layout not in manifest["layouts"]:
        known = ", ".join(manifest["layouts"])
        fail(2, "--layout", f"a layout of the bundle: {known}", f"`{layout}`", "Name one of them.")
    smallest, largest = manifest["input"]["batch"]
    if not smallest <= batch <= largest:
        fail(2, "--batch", f"{smallest}..{largest}", str(batch), "Export for another batch.")


@lru_cache(maxsize=None)
def open_device() -> tuple[Any, Cuda]:
    """TensorRT's module and the device, opened once for all networks of a process."""
    try:
        import tensorrt
    except ImportError as error:
        fail(
            4,
            "tensorrt",
            "its Python module",
            str(error),
            "Use the system's python3, not a virtual environment.",
        )
    return tensorrt, Cuda()


class Network:
    """The engines of a layout, opened for one batch. ``runtime`` names TensorRT's version."""

    def __init__(self, manifest: dict[str, Any], layout: str, batch: int) -> None:
        check_options(manifest, layout, batch)
        tensorrt, self.cuda = open_device()
        self.runtime = f"tensorrt {tensorrt.__version__}"
        self._arrays: dict[str, Any] = {}
        self._addresses: dict[str, int] = {}
        # A context needs its engine, an engine its runtime, and that its logger: all are kept.
        self._runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.WARNING))
        if manifest["dla"]:
            self._runtime.DLA_core = 0  # the one that build.sh names; by default it is none
        self._engines: list[Any] = []
        self._contexts: list[Any] = []
        self._input = manifest["input"]["name"]
        self._outputs = {task: info["tensor"]["name"] for task, info in manifest["tasks"].items()}
        for file in manifest["layouts"][layout]:
            path = find_engine(file["name"], tensorrt.__version__, self.cuda.capability)
            check_engine(path, manifest["files"][file["path"]])
            self._open(path, file, batch)

    def upload(self, image: Any) -> None:
        """Put an image [batch, 3, height, width] where the first engine reads it."""
        self._arrays[self._input][...] = image
        self.send()

    def send(self) -> None:
        """Put the way to the device of the image that was uploaded last on the stream."""
        self.cuda.upload(self._addresses[self._input], self._arrays[self._input])

    def execute(self) -> None:
        """Put all engines on the stream."""
        for context in self._contexts:
            if not context.execute_async_v3(self.cuda.stream.value or 0):
                raise RuntimeError("TensorRT could not run the engine")

    def fetch(self) -> None:
        """Put the way back of the outputs on the stream."""
        for name in self._outputs.values():
            self.cuda.download(self._arrays[name], self._addresses[name])

    def download(self) -> dict[str, Any]:
        """Fetch and wait: an array for each task, which the next download writes over."""
        self.fetch()
        self.cuda.wait()
        return {task: self._arrays[name] for task, name in self._outputs.items()}

    def run(self, image: Any) -> dict[str, Any]:
        """From an image to the outputs: upload, execute, download."""
        self.upload(image)
        self.execute()
        return self.download()

    def _open(self, path: Path, file: dict[str, Any], batch: int) -> None:
        engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        context = None if engine is None else engine.create_execution_context()
        if context is None:
            found = "another or a damaged one"
            fail(4, path, "an engine of this GPU and TensorRT", found, "Remove it and run ./build.sh.")
        for tensor in file["inputs"] + file["outputs"]:
            shape = (batch, *tensor["shape"][1:])
            self._allocate(tensor["name"], shape, tensor["dtype"])
            if tensor in file["inputs"] and not context.set_input_shape(tensor["name"], shape):
                fail(
                    2,
                    path,
                    f"an engine that takes {shape}",
                    "one that does not",
                    "Remove it and run ./build.sh.",
                )
            context.set_tensor_address(tensor["name"], self._addresses[tensor["name"]])
        self._engines.append(engine)
        self._contexts.append(context)

    def _allocate(self, name: str, shape: tuple[int, ...], dtype: str) -> None:
        """Once for each tensor: what one engine writes, the next reads where it lies."""
        if name in self._addresses:
            return
        self._addresses[name] = self.cuda.allocate(int(np.prod(shape)) * np.dtype(dtype).itemsize)
        if name in (self._input, *self._outputs.values()):  # the others never leave the device
            self._arrays[name] = self.cuda.pinned(shape, dtype)


def find_engine(name: str, version: str, capability: str) -> Path:
    """The engine that build.sh wrote of a model for this version of TensorRT and this kind of GPU."""
    numbers = ".".join(version.split(".")[:3])
    path = HERE / "engines" / f"{name}.tensorrt-{numbers}.sm{capability.replace('.', '')}.engine"
    if not path.is_file():
        there = ", ".join(sorted(other.name for other in path.parent.glob(f"{name}.tensorrt-*.engine")))
        wanted = f"an engine of {name} for TensorRT {numbers} and compute capability {capability}"
        fail(4, path.parent, wanted, there or "none", "Run ./build.sh here.")
    return path


def check_engine(path: Path, onnx_sha256: str) -> None:
    """End unless an engine is whole and was built from the model file that has this hash."""
    fix = "Remove it and run ./build.sh."
    sidecar = path.with_name(f"{path.name}.json")
    try:
        facts = json.loads(sidecar.read_text())
    except (OSError, ValueError) as error:
        fail(4, sidecar, "what the engine was built from", str(error), fix)
    if facts.get("onnx_sha256") != onnx_sha256:
        fail(4, path, "an engine of this bundle's model", "one of another model", fix)
    if facts.get("engine_sha256") != hashlib.sha256(path.read_bytes()).hexdigest():
        fail(4, path, "the engine that was built", "a truncated or changed one", fix)
