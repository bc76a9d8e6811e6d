"""Which runtime opens a model file. A new runtime is one file and one line here."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from edgemtl.core.bundle import ModelFile
from edgemtl.core.errors import SetupError, UsageError, nearest
from edgemtl.runtime.build import tensorrt
from edgemtl.runtime.ort import OrtSession, onnxruntime
from edgemtl.runtime.session import Session, SessionFactory
from edgemtl.runtime.trt import TrtSession


class Runtime(NamedTuple):
    """What opens a model file, what imports the library that it needs, and whether all of its memory is that
    of the process: of what a GPU holds a process shows nothing.
    """

    open: SessionFactory
    load: Callable[[], object]
    resident: bool


RUNTIMES = {
    "ort": Runtime(OrtSession, onnxruntime, resident=True),
    "tensorrt": Runtime(TrtSession, tensorrt, resident=False),
    "tensorrt-graph": Runtime(partial(TrtSession, cuda_graph=True), tensorrt, resident=False),
}
# A fact of the machine, so it stands in the environment: all verbs and the processes they start heed it.
CHOICE = "EDGEMTL_RUNTIME"


def open_session(path: Path, file: ModelFile, threads: int) -> Session:
    """Open a model file with the runtime that ``EDGEMTL_RUNTIME`` names.

    ``ort``, the default, is ONNX Runtime; ``tensorrt`` is TensorRT; ``tensorrt-graph`` is TensorRT too, and
    launches the work of a file as one CUDA graph.

    Raises:
        SetupError: no runtime reads such a file, it is not installed, or it refuses the model.
        BundleError: the model's inputs or outputs are not those that ``file`` declares.
    """
    if path.suffix != ".onnx":
        raise SetupError(
            path,
            expected="a model file that ends in .onnx",
            found=f"`{path.suffix}`",
            fix="Install the version of edgemtl that exported this bundle.",
        )
    return RUNTIMES[_choice()].open(path, file, threads)


def choose(runtime: str | None) -> None:
    """Let this process, and those that it starts, run bundles with ``runtime``; None leaves it as it is.

    Raises:
        UsageError: there is no such runtime.
    """
    if runtime is None:
        return
    if runtime not in RUNTIMES:
        fix = nearest(runtime, RUNTIMES)
        raise UsageError("--runtime", expected="a runtime", found=f"`{runtime}`", fix=fix)
    os.environ[CHOICE] = runtime


def load_runtime() -> Runtime:
    """The runtime that ``open_session`` takes, with its library imported, which costs memory and time of its
    own.

    Raises:
        SetupError: there is no such runtime, or it is not installed.
    """
    runtime = RUNTIMES[_choice()]
    runtime.load()
    return runtime


def _choice() -> str:
    choice = os.environ.get(CHOICE) or "ort"
    if choice not in RUNTIMES:
        raise SetupError(CHOICE, expected="a runtime", found=f"`{choice}`", fix=nearest(choice, RUNTIMES))
    return choice
