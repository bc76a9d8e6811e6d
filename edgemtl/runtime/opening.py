"""Which runtime opens a model file. A new runtime is one file and one line here."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from edgemtl.core.bundle import ModelFile
from edgemtl.core.errors import SetupError, nearest
from edgemtl.runtime.build import tensorrt
from edgemtl.runtime.ort import OrtSession, onnxruntime
from edgemtl.runtime.session import Session, SessionFactory
from edgemtl.runtime.trt import TrtSession

RUNTIMES: dict[str, SessionFactory] = {"ort": OrtSession, "tensorrt": TrtSession}
LIBRARIES: dict[str, Callable[[], object]] = {"ort": onnxruntime, "tensorrt": tensorrt}
# A fact of the machine, so it stands in the environment: all verbs and the processes they start heed it.
CHOICE = "EDGEMTL_RUNTIME"


def open_session(path: Path, file: ModelFile, threads: int) -> Session:
    """Open a model file with the runtime that ``EDGEMTL_RUNTIME`` names: ``ort`` (the default), ``tensorrt``.

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
    return RUNTIMES[_choice()](path, file, threads)


def load_runtime() -> None:
    """Import the library of the runtime that ``open_session`` takes, which costs memory and time of its own.

    Raises:
        SetupError: there is no such runtime, or it is not installed.
    """
    LIBRARIES[_choice()]()


def _choice() -> str:
    choice = os.environ.get(CHOICE) or "ort"
    if choice not in RUNTIMES:
        raise SetupError(CHOICE, expected="a runtime", found=f"`{choice}`", fix=nearest(choice, RUNTIMES))
    return choice
