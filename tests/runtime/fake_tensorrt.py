"""The tensorrt package made of ONNX Runtime, in the styles of its versions; the part that edgemtl calls."""

from __future__ import annotations

import json
from enum import IntEnum
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

from tests.runtime.fake_cuda import FakeGpu

VERSIONS = ("8.6.2", "10.3.0", "11.4.1")
NUMPY = {"tensor(float)": "float32", "tensor(float16)": "float16"}


class DataType(IntEnum):
    FLOAT, HALF = 0, 1


class Severity(IntEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO = 0, 1, 2, 3


class Logger:
    Severity = Severity


def fake_tensorrt(gpu: FakeGpu, version: str, package: str = "tensorrt") -> ModuleType:
    """The package in the style of a version: 8 is weakly typed, 10 may be either, 11 is strongly typed."""
    trt = ModuleType(package)
    trt.__spec__ = ModuleSpec(package, None)
    major = int(version.partition(".")[0])
    network = {8: ["EXPLICIT_BATCH"], 10: ["EXPLICIT_BATCH", "STRONGLY_TYPED"]}.get(major, ["STRONGLY_TYPED"])
    weak = ["FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"] if major <= 10 else []
    trt.__version__ = version
    trt.ILogger = Logger
    trt.NetworkDefinitionCreationFlag = IntEnum("NetworkDefinitionCreationFlag", network, start=0)
    trt.BuilderFlag = IntEnum("BuilderFlag", ["TF32", "GPU_FALLBACK", *weak], start=0)
    trt.DeviceType = IntEnum("DeviceType", ["GPU", "DLA"], start=0)
    trt.MemoryPoolType = IntEnum("MemoryPoolType", ["WORKSPACE"], start=0)
    trt.Builder = lambda log: Builder(trt, gpu, log)
    trt.OnnxParser = Parser
    trt.Runtime = lambda log: Runtime(trt, gpu, log)
    return trt


class Network:
    """A parsed file; its only layers are those that write its outputs, each from the first input."""

    def __init__(self, flags: int) -> None:
        self.flags, self.onnx = flags, b""

    def fill(self, onnx: bytes) -> None:
        session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
        self.onnx = onnx
        self.inputs, self.outputs = (
            [
                SimpleNamespace(
                    name=tensor.name,
                    shape=tuple(size if isinstance(size, int) else -1 for size in tensor.shape),
                    dtype={"tensor(float)": DataType.FLOAT, "tensor(float16)": DataType.HALF}[tensor.type],
                )
                for tensor in tensors
            ]
            for tensors in (session.get_inputs(), session.get_outputs())
        )
        self.num_inputs, self.num_layers = len(self.inputs), len(self.outputs)
        self.layers = [
            SimpleNamespace(
                type=SimpleNamespace(name="IDENTITY"),
                num_inputs=2,
                get_input=[self.inputs[0], None].__getitem__,
                num_outputs=1,
                get_output=[output].__getitem__,
                precision=None,
            )
            for output in self.outputs
        ]

    def get_input(self, number: int) -> SimpleNamespace:
        return self.inputs[number]

    def get_layer(self, number: int) -> SimpleNamespace:
        return self.layers[number]


class Parser:
    def __init__(self, network: Network, log: Any) -> None:
        self.network, self.errors = network, []

    @property
    def num_errors(self) -> int:
        return len(self.errors)

    def get_error(self, number: int) -> str:
        return self.errors[number]

    def parse_from_file(self, path: str) -> bool:
        try:
            self.network.fill(Path(path).read_bytes())
        except Exception as error:
            self.errors.append(str(error))
        return not self.errors


class Config:
    def __init__(self, trt: ModuleType) -> None:
        self.flags, self.workspace, self.profiles = {trt.BuilderFlag.TF32}, None, []
        self.default_device_type, self.DLA_core = trt.DeviceType.GPU, -1

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag)

    def set_memory_pool_limit(self, _: Any, size: int) -> None:
        self.workspace = size

    def add_optimization_profile(self, profile: Profile) -> None:
        self.profiles.append(profile)


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[Any, ...]] = {}

    def set_shape(self, name: str, smallest: Any, best: Any, largest: Any) -> None:
        self.shapes[name] = (smallest, best, largest)


class Builder:
    def __init__(self, trt: ModuleType, gpu: FakeGpu, log: Any) -> None:
        self.trt, self.gpu, self.log = trt, gpu, log
        self.num_DLA_cores = gpu.dla_cores

    def create_network(self, flags: int) -> Network:
        return Network(flags)

    def create_builder_config(self) -> Config:
        return Config(self.trt)

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        known = self.trt.NetworkDefinitionCreationFlag.__members__
        typed = "STRONGLY_TYPED" in known and network.flags >> known["STRONGLY_TYPED"] & 1
        weak = {flag.name for flag in config.flags} - {"TF32", "GPU_FALLBACK"}
        options = self.trt.BuilderFlag.__members__
        dla = config.default_device_type
        half = any(tensor.dtype is DataType.HALF for tensor in network.outputs)
        free = [tensor.name for tensor in network.inputs if -1 in tensor.shape]
        refusals = {
            "TF32 is on": self.trt.BuilderFlag.TF32 in config.flags,
            "implicit batch": not typed and not network.flags >> known.get("EXPLICIT_BATCH", 0) & 1,
            "flags in a strongly typed network": bool(typed and weak),
            "fp16 tensors without FP16": not typed and half != ("FP16" in weak),
            "types that nothing holds": not typed
            and half
            and ("OBEY_PRECISION_CONSTRAINTS" not in weak or any(_free(layer) for layer in network.layers)),
            "a DLA without fp16 by a flag": bool(dla and "FP16" not in weak and "FP16" in options),
            "a DLA that takes no layer": bool(dla and not half),
            "a DLA without a core or a fallback": bool(dla)
            and (config.DLA_core < 0 or options["GPU_FALLBACK"] not in config.flags),
            "no profile": any(name not in profile.shapes for name in free for profile in config.profiles)
            or bool(free and not config.profiles),
            "out of memory": not config.workspace or config.workspace > 4 << 30,
        }
        if reasons := [reason for reason, true in refusals.items() if true]:
            self.log.log(Severity.ERROR, ", ".join(reasons))
            return None
        self.log.log(Severity.INFO, "built")
        ranges = {
            name: [shape[0] for shape in profile.shapes[name]] for profile in config.profiles for name in free
        }
        head = {
            "made_by": self.trt.__version__,
            "for": self.gpu.capability,
            "ranges": ranges,
            "dla": bool(dla),
        }
        return json.dumps(head).encode() + b"\n" + network.onnx


def _free(layer: SimpleNamespace) -> bool:
    return layer.precision is not layer.get_output(0).dtype


class Runtime:
    def __init__(self, trt: ModuleType, gpu: FakeGpu, log: Any) -> None:
        self.trt, self.gpu, self.log = trt, gpu, log
        self.DLA_core = -1

    def deserialize_cuda_engine(self, data: bytes) -> Engine | None:
        head, _, onnx = data.partition(b"\n")
        try:
            made = json.loads(head)
            network = Network(0)
            network.fill(onnx)
        except Exception:
            self.log.log(Severity.ERROR, "Serialization assertion failed")
            return None
        if made["made_by"] != self.trt.__version__ or tuple(made["for"]) != self.gpu.capability:
            self.log.log(Severity.ERROR, "The engine plan file is not compatible")
            return None
        if made["dla"] and self.DLA_core < 0:
            self.log.log(Severity.ERROR, "No DLA core was chosen")
            return None
        return Engine(self.gpu, network, made["ranges"])


class Engine:
    def __init__(self, gpu: FakeGpu, network: Network, ranges: dict[str, list[int]]) -> None:
        self.gpu, self.network, self.ranges = gpu, network, ranges
        self.tensors = {tensor.name: tensor for tensor in (*network.outputs, *network.inputs)}
        self.num_io_tensors = len(self.tensors)
        self.contexts = 1

    def __len__(self) -> int:
        return 0  # as of an engine of 8.6 without bindings: nobody may take it for false

    def get_tensor_name(self, number: int) -> str:
        return list(self.tensors)[number]

    def get_tensor_dtype(self, name: str) -> DataType:
        return self.tensors[name].dtype

    def create_execution_context(self) -> Context | None:
        return None if "context" in self.gpu.fails else Context(self)


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine, self.gpu = engine, engine.gpu
        self.session = onnxruntime.InferenceSession(engine.network.onnx, providers=["CPUExecutionProvider"])
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.settled: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        smallest, _, largest = self.engine.ranges.get(name, [self.engine.tensors[name].shape[0]] * 3)
        fits = smallest <= shape[0] <= largest and shape[1:] == self.engine.tensors[name].shape[1:]
        if fits:
            self.shapes[name] = shape
        return fits

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        batch = next(iter(self.shapes.values()))[0]
        return (batch, *self.engine.tensors[name].shape[1:])

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert isinstance(stream, int) and stream
        settled, self.settled = self.settled, dict(self.shapes)
        if "enqueue" in self.gpu.fails or (self.gpu.recording is not None and settled != self.shapes):
            return False  # the latter: new shapes make it do what no graph can hold
        self.gpu.put(lambda addresses=dict(self.addresses): self.compute(addresses))
        return True

    def compute(self, addresses: dict[str, int]) -> None:
        def array(tensor: Any) -> np.ndarray:
            shape = self.get_tensor_shape(tensor.name)
            dtype = np.dtype(NUMPY[tensor.type])
            memory = self.gpu.view(addresses[tensor.name], int(np.prod(shape)) * dtype.itemsize)
            return memory.view(dtype).reshape(shape)

        feeds = {tensor.name: array(tensor) for tensor in self.session.get_inputs()}
        outputs = self.session.get_outputs()
        for tensor, value in zip(outputs, self.session.run(None, feeds), strict=True):
            array(tensor)[:] = value
