"""How TensorRT makes an engine of a model file: one small adapter for 8.5 to 11 and for TensorRT-RTX.

An engine is built where it runs. Only TensorRT-RTX can also parse and build without a GPU.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from functools import cache, cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from edgemtl.core.errors import SetupError

PACKAGES = ("tensorrt", "tensorrt_rtx")  # a board has the first, the second is on PyPI
PRECISIONS = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "INT8": "int8", "FP8": "fp8"}
DLA_CORE = 0  # as in build.sh
_SHOWN = 3  # of its errors: more would bury what helps


class TensorRt:
    """The TensorRT that is installed. ``name`` is its package and version, ``release`` with the first three
    numbers alone, as trtexec knows them.

    All since 8.5 run an engine by the names of its tensors. They differ in how a network gets its precisions:
    from flags up to 9, from the types in the model file since 10; for a DLA, only since 11.
    """

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.name = f"{module.__name__} {module.__version__}"
        self.release = f"{module.__name__} {'.'.join(module.__version__.split('.')[:3])}"
        self._errors: deque[str] = deque(maxlen=_SHOWN)
        self.log = _log(module, self._errors)

    def create_network(self, builder: Any, *, dla: bool) -> Any:
        """An empty network whose types are those of the model file, where this version knows that."""
        flags = self.module.NetworkDefinitionCreationFlag.__members__
        wanted = "STRONGLY_TYPED" if self._typed(dla) else "EXPLICIT_BATCH"
        return builder.create_network(1 << int(flags[wanted]) if wanted in flags else 0)

    def allow(self, config: Any, layers: list[Any], *, dla: bool) -> None:
        """Let the builder use the types of the model file, where it must be told, and no TF32.

        TF32 keeps 10 bits of the mantissa: what is exported as fp32 would leave its tolerances.
        """
        flags = self.module.BuilderFlag.__members__
        config.clear_flag(flags["TF32"])
        if self._typed(dla):
            return
        types = types_of(layers)
        for name in {"FP16" if kind == "HALF" else kind for kind in types} & flags.keys():
            config.set_flag(flags[name])
        if "HALF" in types:  # a flag allows its type everywhere, also where the file says fp32
            hold_types(layers)
            config.set_flag(flags["OBEY_PRECISION_CONSTRAINTS"])

    def prefer_dla(self, config: Any) -> None:
        """Let the DLA run what it can, and the GPU the rest."""
        config.default_device_type = self.module.DeviceType.DLA
        config.DLA_core = DLA_CORE
        config.set_flag(self.module.BuilderFlag.GPU_FALLBACK)

    def _typed(self, dla: bool) -> bool:
        """Whether the types of the model file rule. For a DLA, 10 still wants fp16 by a flag."""
        typed = "STRONGLY_TYPED" in self.module.NetworkDefinitionCreationFlag.__members__
        return typed and not (dla and "FP16" in self.module.BuilderFlag.__members__)

    def load(self, engine: bytes, *, dla: bool) -> Any:
        """An engine, ready to run; None if this GPU or version cannot load it."""
        if dla:
            self._runtime.DLA_core = DLA_CORE  # by default none
        return self._runtime.deserialize_cuda_engine(engine)

    @cached_property
    def _runtime(self) -> Any:
        return self.module.Runtime(self.log)  # must outlive its engines

    def errors(self) -> str:
        """The last errors that it logged since this was asked, in one line."""
        found = "; ".join(dict.fromkeys(self._errors)) or "no reason given"
        self._errors.clear()
        return found


class Build:
    """A model file, parsed. ``precision`` names the types it computes in, such as ``fp16+fp32``.

    Args:
        tensorrt: builds it.
        path: an ONNX file.
        batch: (smallest, largest), where the file leaves the batch free; tuned for the smallest.
        dla: use the board's DLA for what is not fp32, which is all that it computes.

    ``config`` is TensorRT's own.

    Raises:
        SetupError: this TensorRT cannot read the file or lacks one of its operators; there is no DLA.
    """

    def __init__(self, tensorrt: TensorRt, path: Path, batch: tuple[int, int], *, dla: bool = False) -> None:
        trt = tensorrt.module
        self._tensorrt, self._path = tensorrt, path
        self._builder = trt.Builder(tensorrt.log)
        if dla and not self._builder.num_DLA_cores:
            raise SetupError(
                path,
                expected="a board with a DLA, for which this bundle was exported",
                found=f"none that {tensorrt.name} knows",
                fix="Export it without --dla.",
            )
        self._network = tensorrt.create_network(self._builder, dla=dla)
        parser = trt.OnnxParser(self._network, tensorrt.log)
        if not parser.parse_from_file(str(path)):
            errors = [str(parser.get_error(number)) for number in range(min(parser.num_errors, _SHOWN))]
            raise SetupError(
                path,
                expected=f"a model that {tensorrt.name} can read",
                found="; ".join(errors) or tensorrt.errors(),
                fix="Run it with EDGEMTL_RUNTIME=ort, or export it without that operator.",
            )
        self.config = self._builder.create_builder_config()
        layers = [self._network.get_layer(number) for number in range(self._network.num_layers)]
        precisions = {PRECISIONS[kind] for kind in types_of(layers) & PRECISIONS.keys()}
        self.precision = "+".join(sorted(precisions))
        tensorrt.allow(self.config, layers, dla=dla)
        if dla and precisions != {"fp32"}:
            tensorrt.prefer_dla(self.config)
        self._add_profile(batch)

    def serialize(self, workspace_bytes: int) -> bytes:
        """The engine as its file holds it; may take minutes. ``workspace_bytes`` bounds its scratch memory.

        Raises:
            SetupError: it cannot be built, for example for want of memory.
        """
        self.config.set_memory_pool_limit(self._tensorrt.module.MemoryPoolType.WORKSPACE, workspace_bytes)
        engine = self._builder.build_serialized_network(self._network, self.config)
        if engine is None:
            raise SetupError(
                self._path,
                expected=f"{self._tensorrt.name} to build an engine in {workspace_bytes >> 20} MiB",
                found=self._tensorrt.errors(),
                fix="Close other programs to free memory, or export a smaller batch.",
            )
        return bytes(engine)

    def _add_profile(self, batch: tuple[int, int]) -> None:
        inputs = [self._network.get_input(number) for number in range(self._network.num_inputs)]
        free = [tensor for tensor in inputs if tensor.shape[0] == -1]
        if not free:
            return
        profile = self._builder.create_optimization_profile()
        for tensor in free:
            smallest, largest = ((size, *tensor.shape[1:]) for size in batch)
            profile.set_shape(tensor.name, smallest, smallest, largest)
        self.config.add_optimization_profile(profile)


def types_of(layers: Iterable[Any]) -> set[str]:
    """The names of the types that layers write."""
    return {layer.get_output(number).dtype.name for layer in layers for number in range(layer.num_outputs)}


def hold_types(layers: Iterable[Any]) -> None:
    """Let each layer compute in the floating-point type that it writes, as ``weak_words`` of the desk does.

    What runs in int8 lies between a layer that dequantizes and one that quantizes: it is left alone.
    """
    layers = list(layers)
    pairs = [layer for layer in layers if layer.type.name in ("QUANTIZE", "DEQUANTIZE")]
    integers = {name for layer in pairs for name in _tensors(layer)}
    for layer in layers:
        kind = layer.get_output(0).dtype
        if kind.name in ("FLOAT", "HALF") and integers.isdisjoint(_tensors(layer)):
            layer.precision = kind


def _tensors(layer: Any) -> set[str]:
    read = (layer.get_input(number) for number in range(layer.num_inputs))
    written = (layer.get_output(number) for number in range(layer.num_outputs))
    return {tensor.name for tensor in (*read, *written) if tensor is not None}  # an input may be left out


@cache
def tensorrt() -> TensorRt:
    """The TensorRT of this machine; one a process, as it keeps the first log that it is given.

    Raises:
        SetupError: none is installed.
    """
    package = next(filter(find_spec, PACKAGES), PACKAGES[0])
    try:
        return TensorRt(import_module(package))
    except (ImportError, OSError) as error:  # OSError: one of its libraries is missing
        raise SetupError(
            "runtime",
            expected="tensorrt",
            found=str(error),
            fix="JetPack brings it for the system's python3: make the environment with"
            " `python3 -m venv --system-site-packages`. On a PC: `pip install 'edgemtl[trt]'`.",
        ) from error


def _log(module: ModuleType, errors: deque[str]) -> Any:
    """A logger that collects errors for ours, and drops what a user cannot mend."""

    def log(_: object, severity: Any, message: str) -> None:
        if int(severity) <= int(module.ILogger.Severity.ERROR):
            errors.append(message)

    return type("Log", (module.ILogger,), {"log": log})()
