"""TrtSession: a model file on an NVIDIA GPU through TensorRT, from 8.5 to 11, or TensorRT-RTX."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from edgemtl.core.bundle import ModelFile
from edgemtl.core.errors import BundleError, SetupError, UsageError
from edgemtl.runtime.build import tensorrt
from edgemtl.runtime.cuda import Buffer, Gpu, Stream
from edgemtl.runtime.engines import open_engine
from edgemtl.runtime.session import Array, Session

Shapes = dict[str, tuple[int, ...]]
# Of TensorRT's types; its own table, `nptype`, fails in 8.5 and 8.6 with today's numpy.
NUMPY = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "INT64": "int64"}


class TrtSession(Session):
    """An engine of a bundle's model file, built on this device when it is first opened.

    The GPU's memory for inputs and outputs is taken once and reused. With ``cuda_graph`` the work of an image
    is launched as a whole, which saves time where a network's layers are shorter than their launches.
    ``threads`` is of no use here. A session runs in one thread at a time.

    Raises:
        SetupError: there is no GPU or no TensorRT, or it cannot build the file.
        BundleError: the model's inputs or outputs are not those that ``file`` declares.
    """

    def __init__(self, path: Path, file: ModelFile, threads: int, *, cuda_graph: bool = False) -> None:
        trt = tensorrt()
        self.runtime = trt.name
        self.settings = {"cuda_graph": "on" if cuda_graph else "off"}
        self._gpu, self._file, self._cuda_graph = Gpu(), file, cuda_graph
        self._engine = open_engine(path, file, trt, self._gpu)
        self._inputs = {tensor.name: tensor.dtype for tensor in file.inputs}
        self._outputs = {tensor.name: tensor.dtype for tensor in file.outputs}
        self._check_tensors(path)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise SetupError(
                path,
                expected="memory for an engine to run in",
                found=trt.errors(),
                fix="Close other programs to free memory, or export a smaller batch.",
            )
        self._errors = trt.errors
        self._stream = Stream(self._gpu)
        self._buffers = {name: Buffer(self._gpu) for name in (*self._inputs, *self._outputs)}
        self._shapes: Shapes = {}
        self._launch: Callable[[], None] = self._enqueue

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """See ``Session.run``.

        Raises:
            UsageError: the engine takes no arrays of such shapes.
            SetupError: the GPU failed, for example for want of memory.
        """
        self._gpu.enter()
        arrays = {name: np.ascontiguousarray(feeds[name], dtype) for name, dtype in self._inputs.items()}
        shapes = {name: array.shape for name, array in arrays.items()}
        if shapes != self._shapes:
            self._bind(shapes)
        for name, array in arrays.items():
            self._stream.upload(array, self._buffers[name])
        self._stream.timed(self._launch)
        results = {
            name: np.empty(tuple(self._context.get_tensor_shape(name)), self._outputs[name])
            for name in (self._outputs if outputs is None else outputs)
        }
        for name, result in results.items():
            self._stream.download(self._buffers[name], result)
        self._stream.wait()
        return results

    @property
    def compute_ms(self) -> float:
        """See ``Session.compute_ms``."""
        return self._stream.elapsed_ms()

    def _bind(self, shapes: Shapes) -> None:
        """Get ready for inputs of other shapes."""
        self._shapes = {}
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise UsageError(
                    f"{self._file.name} {name}",
                    expected="a shape that the engine was built for",
                    found="x".join(map(str, shape)),
                    fix="Run a batch that the manifest allows, or export for this one.",
                )
        for name, dtype in {**self._inputs, **self._outputs}.items():
            shape = tuple(self._context.get_tensor_shape(name))
            self._buffers[name].reserve(int(np.prod(shape)) * np.dtype(dtype).itemsize)
            self._context.set_tensor_address(name, self._buffers[name].address)
        self._launch = self._enqueue
        if self._cuda_graph:
            self._enqueue()  # what new shapes make TensorRT do once must not become part of the graph
            self._stream.wait()
            self._launch = self._stream.record(self._enqueue)
        self._shapes = shapes

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream.handle):
            raise SetupError(
                self._file.name,
                expected="TensorRT to run",
                found=self._errors(),
                fix="Close other programs to free memory, and try again.",
            )

    def _check_tensors(self, path: Path) -> None:
        engine = self._engine
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        found = {name: NUMPY.get(engine.get_tensor_dtype(name).name) for name in names}
        declared = {**self._inputs, **self._outputs}
        if found != declared:
            raise BundleError(
                path,
                expected=f"the tensors {_listed(declared)}",
                found=_listed(found),
                fix="The manifest describes another file: export the bundle again.",
            )


def _listed(tensors: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} {dtype}" for name, dtype in sorted(tensors.items()))
