"""OrtSession: a model file on the CPU through ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from types import MappingProxyType, ModuleType

from edgemtl.core.bundle import ModelFile
from edgemtl.core.errors import BundleError, SetupError, first_line
from edgemtl.core.malloc import return_large_blocks
from edgemtl.runtime.session import Array, Session

# ONNX Runtime's blocked layout, its last level of optimization, computes so many output channels at a time.
# A narrow file that leaves most of a block empty runs faster without: a 3x3 convolution of 16 to 64 channels
# in takes .55 of the time for 1 channel out, .9 for 4, .87 for 17, but 1.1 for 8 and 24, 1.5 for 13. And it
# need not bring what it reads into blocks, which the trunk has just undone (one thread, AVX-512).
BLOCK = 16
# Without it, x86 processors that lack VNNI (with AVX2 alone, for example) add up products of 8 bits in 16,
# which overflow: int8 bundles failed their verification by twenty times. Those with VNNI run the same.
EXACT_INTEGERS = ("session.x64quantprecision", "1")


class OrtSession(Session):
    """An ``onnxruntime.InferenceSession`` on ``threads`` threads.

    numpy arrays enter and leave without a copy. Idle threads sleep instead of spinning: a board runs more
    than one session, and on a busy machine spinning made two threads 7x slower than one (measured).
    """

    settings = MappingProxyType({"arena": "one for all sessions", "spinning": "off"})

    def __init__(self, path: Path, file: ModelFile, threads: int) -> None:
        ort = onnxruntime()
        self._path = path
        self.runtime = f"onnxruntime {ort.__version__}"
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors only: what it warns about, a user cannot mend
        options.enable_mem_pattern = False  # it keeps each session's peak allocated as one piece
        if _mostly_padding(file.channels):
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry(*EXACT_INTEGERS)
        try:
            self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise SetupError(
                path,
                expected=f"a model that {self.runtime} can run",
                found=first_line(error),
                fix="Install a newer onnxruntime, or export with a lower opset.",
            ) from error
        self._outputs = [tensor.name for tensor in file.outputs]
        inputs = [tensor.name for tensor in file.inputs]
        _check_names(path, "inputs", inputs, [tensor.name for tensor in self._session.get_inputs()])
        _check_names(path, "outputs", self._outputs, [tensor.name for tensor in self._session.get_outputs()])

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """See ``Session.run``."""
        wanted = self._outputs if outputs is None else outputs
        try:
            found = self._session.run(wanted, feeds)
        except Exception as error:  # as above
            raise SetupError(
                self._path,
                expected="memory and all else that one run needs",
                found=first_line(error),
                fix="Run a smaller batch, or fewer things at once.",
            ) from error
        return dict(zip(wanted, found, strict=True))


@cache
def onnxruntime() -> ModuleType:
    """The onnxruntime module, once this process is prepared to load models in little memory.

    All sessions share one arena: with one each, the split layout takes about twice the memory of the merged
    one. And what loading frees goes back to the system.

    Raises:
        SetupError: it is not installed.
    """
    try:
        ort = import_module("onnxruntime")
    except ImportError as error:
        raise SetupError(
            "runtime",
            expected="onnxruntime",
            found=str(error),
            fix="Install it with `pip install 'edgemtl[ort]'`.",
        ) from error
    return_large_blocks()
    cpu = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    # Before 1.23 a second arena is refused: then this process has one already, and sessions share that.
    with suppress(RuntimeError):
        ort.create_and_register_allocator(cpu, None)
    return ort


def _mostly_padding(channels: int) -> bool:
    """Whether a block, or the second of two, holds no more than a quarter of the channels that it could."""
    return channels < 2 * BLOCK and 0 < channels % BLOCK <= BLOCK // 4


def _check_names(path: Path, what: str, declared: list[str], found: list[str]) -> None:
    if sorted(found) != sorted(declared):
        raise BundleError(
            path,
            expected=f"the {what} {', '.join(declared)}",
            found=", ".join(found),
            fix="The manifest describes another file: export the bundle again.",
        )
