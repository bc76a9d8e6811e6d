"""Which runtime opens a model file. A new runtime is one file and one branch here."""

from __future__ import annotations

from pathlib import Path

from edgemtl.core.bundle import ModelFile
from edgemtl.core.errors import SetupError
from edgemtl.runtime.ort import OrtSession
from edgemtl.runtime.session import Session


def open_session(path: Path, file: ModelFile, threads: int) -> Session:
    """Open a model file with the runtime that its suffix asks for.

    Raises:
        SetupError: no runtime reads such a file, it is not installed, or it refuses the model.
        BundleError: the model's inputs or outputs are not those that ``file`` declares.
    """
    if path.suffix == ".onnx":
        return OrtSession(path, file, threads)
    raise SetupError(
        path,
        expected="a model file that ends in .onnx",
        found=f"`{path.suffix}`",
        fix="Install the version of edgemtl that exported this bundle.",
    )
