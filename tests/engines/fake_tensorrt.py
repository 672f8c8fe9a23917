"""Stand-ins for `tensorrt` and `cuda.bindings`: the calls that the engine makes, over ordinary memory.

What they offer, and no more, is what `api_names.json` says was found in the published bindings. A plan is the graph
file itself with a mark; the context computes `Linear` on what lies at the addresses it was given, so that data that
were not copied, or copied to the wrong place, give wrong answers.
"""

from __future__ import annotations

import ctypes
import enum
import math
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from tests.serving.building import Linear
from wander.engines import EngineOptions

MARK = b"plan:"
MODEL = Linear("emotion")
OPTIONS = EngineOptions(max_batch_size=16, max_length=64)


class Machine:
    """A GPU, its driver and TensorRT, with a log of what was asked of them (`calls`) and what to do wrong (`fail`)."""

    def __init__(self, model: Linear) -> None:
        self.model = model
        self.calls: list[str] = []
        self.fail: set[str] = set()
        self.driver = "580.95.05"
        self.gpu = b"Fake GPU"
        self.version = "10.16.1.11"
        self.profile: dict[str, tuple[tuple[int, ...], ...]] = {}
        self.memory: dict[int, Any] = {}
        self.contexts = 0

    def called(self, what: str) -> None:
        self.calls.append(what)

    def modules(self) -> dict[str, ModuleType]:
        """For `sys.modules`."""
        runtime, nvml = self._runtime(), self._module("cuda.bindings.nvml")
        nvml.init_v2 = lambda: None  # type: ignore[attr-defined]
        nvml.system_get_driver_version = lambda: self.driver  # type: ignore[attr-defined]
        bindings, cuda = self._module("cuda.bindings"), self._module("cuda")
        bindings.runtime, bindings.nvml, cuda.bindings = runtime, nvml, bindings  # type: ignore[attr-defined]
        return {
            "cuda": cuda,
            "cuda.bindings": bindings,
            "cuda.bindings.runtime": runtime,
            "cuda.bindings.nvml": nvml,
            "tensorrt": self._tensorrt(),
        }

    @staticmethod
    def _module(name: str) -> ModuleType:
        module = ModuleType(name)
        module.__spec__ = SimpleNamespace(name=name)  # type: ignore[assignment]
        return module

    # cuda.bindings.runtime

    def _runtime(self) -> ModuleType:
        machine, module = self, self._module("cuda.bindings.runtime")

        def allocate(size: int, *_: int) -> tuple[int, int]:
            if "memory" in machine.fail:
                return 2, 0
            block = (ctypes.c_char * size)(*b"\xff" * size)
            machine.memory[ctypes.addressof(block)] = block
            return 0, ctypes.addressof(block)

        def free(address: int) -> tuple[int]:
            del machine.memory[address]
            return (0,)

        def copy(target: int, source: int, size: int, kind: str, _: int) -> tuple[int]:
            machine.called(kind)
            ctypes.memmove(target, source, size)
            return (0,)

        module.cudaGetDeviceCount = lambda: (100, 0) if "device" in machine.fail else (0, 1)  # type: ignore[attr-defined]
        module.cudaGetDeviceProperties = lambda _: (0, SimpleNamespace(name=machine.gpu, major=9, minor=0))  # type: ignore[attr-defined]
        module.cudaGetErrorString = lambda error: (0, f"error {int(error)}".encode())  # type: ignore[attr-defined]
        module.cudaStreamCreate = lambda: (0, 7)  # type: ignore[attr-defined]
        module.cudaStreamSynchronize = lambda _: (machine.called("wait") or 0,)  # type: ignore[attr-defined,func-returns-value]
        module.cudaStreamDestroy = lambda _: (0,)  # type: ignore[attr-defined]
        module.cudaMalloc = module.cudaHostAlloc = allocate  # type: ignore[attr-defined]
        module.cudaFree = module.cudaFreeHost = free  # type: ignore[attr-defined]
        module.cudaMemcpyAsync = copy  # type: ignore[attr-defined]
        module.cudaHostAllocDefault = 0  # type: ignore[attr-defined]
        module.cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice="upload", cudaMemcpyDeviceToHost="download")  # type: ignore[attr-defined]
        return module

    # tensorrt

    def _tensorrt(self) -> ModuleType:
        machine, module = self, self._module("tensorrt")
        Severity = enum.IntEnum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE", start=0)  # noqa: N806

        class ILogger:
            INTERNAL_ERROR, ERROR, WARNING = Severity.INTERNAL_ERROR, Severity.ERROR, Severity.WARNING

            def log(self, severity: Any, message: str) -> None:
                raise NotImplementedError

        class Flag(enum.IntEnum):
            STRONGLY_TYPED = 1

        class Bits(enum.Enum):
            TF32 = "TF32"

        class Pool(enum.Enum):
            WORKSPACE = "WORKSPACE"

        class Mode(enum.Enum):
            NONE, INPUT, OUTPUT = range(3)

        class Profile:
            def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
                machine.called(f"shape {input}")
                machine.profile[input] = (min, opt, max)

        class TimingCache:
            def __init__(self, content: bytes) -> None:
                self.content = content

            def serialize(self) -> bytes:
                return self.content + b"t"

        class Config:
            def clear_flag(self, flag: Bits) -> None:
                machine.called(f"clear {flag.value}")

            def set_memory_pool_limit(self, pool: Pool, pool_size: int) -> None:
                machine.called(f"limit {pool.value}")

            def add_optimization_profile(self, profile: Profile) -> int:
                machine.called("profile")
                return 0

            def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache:
                machine.called(f"timing {len(serialized_timing_cache)}")
                return TimingCache(serialized_timing_cache)

            def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
                self.cache = cache
                return True

            def get_timing_cache(self) -> TimingCache:
                return self.cache

        class Network:
            graph = b""

        class Parser:
            num_errors = 0

            def __init__(self, network: Network, logger: ILogger) -> None:
                self.network = network

            def parse_from_file(self, model: str) -> bool:
                machine.called("parse")
                with open(model, "rb") as file:
                    self.network.graph = file.read()
                if "parse" in machine.fail or not self.network.graph.startswith(b"\x08"):
                    self.num_errors = 1
                    return False
                return True

            def get_error(self, index: int) -> Any:
                return SimpleNamespace(desc=lambda: "unsupported operator Teleport")

        class Builder:
            def __init__(self, logger: ILogger) -> None:
                self.logger = logger

            def create_network(self, flags: int) -> Network:
                machine.called(f"network {flags}")
                return Network()

            def create_builder_config(self) -> Config:
                return Config()

            def create_optimization_profile(self) -> Profile:
                return Profile()

            def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
                machine.called("build")
                if "build" in machine.fail:
                    self.logger.log(Severity.ERROR, "no kernel fits")
                    return None
                return MARK + network.graph

        class Context:
            def __init__(self) -> None:
                self.shapes: dict[str, tuple[int, ...]] = {}
                self.addresses: dict[str, int] = {}
                machine.contexts += 1

            def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
                least, _, most = machine.profile.get(name, (shape, shape, shape))
                self.shapes[name] = tuple(shape)
                return all(a <= size <= b for a, size, b in zip(least, shape, most, strict=True))

            def infer_shapes(self) -> list[str]:
                names = [spec.name for spec in machine.model.signature.inputs]
                return [name for name in names if name not in self.shapes]

            def get_tensor_shape(self, name: str) -> tuple[int, ...]:
                rows = next(iter(self.shapes.values()))[0]
                return (rows, machine.model.weights.shape[1])

            def set_tensor_address(self, name: str, memory: int) -> bool:
                self.addresses[name] = memory
                return memory in machine.memory

            def execute_async_v3(self, stream_handle: int) -> bool:
                machine.called("execute")
                if "execute" in machine.fail:
                    return False
                inputs = {
                    name: np.frombuffer(
                        (ctypes.c_char * (4 * math.prod(shape))).from_address(self.addresses[name]), np.float32
                    ).reshape(shape)
                    for name, shape in self.shapes.items()
                }
                answer = machine.model(inputs)[machine.model.output]
                ctypes.memmove(self.addresses[machine.model.output], answer.tobytes(), answer.nbytes)
                return True

        class Engine:
            def __init__(self) -> None:
                signature = machine.model.signature
                self.specs = [(Mode.INPUT, s) for s in signature.inputs] + [(Mode.OUTPUT, s) for s in signature.outputs]
                self.num_io_tensors = len(self.specs)

            def get_tensor_name(self, index: int) -> str:
                return self.specs[index][1].name

            def get_tensor_mode(self, name: str) -> Mode:
                return next(mode for mode, spec in self.specs if spec.name == name)

            def get_tensor_dtype(self, name: str) -> Any:
                return np.float16 if "dtype" in machine.fail else np.float32

            def create_execution_context(self) -> Context | None:
                machine.called("context")
                return None if "context" in machine.fail else Context()

        class Runtime:
            def __init__(self, logger: ILogger) -> None:
                self.logger = logger

            def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
                machine.called("deserialize")
                if not serialized_engine.startswith(MARK):
                    self.logger.log(Severity.ERROR, "magic tag does not match")
                    return None
                return Engine()

        parts = {
            "__version__": machine.version, "ILogger": ILogger, "Builder": Builder, "OnnxParser": Parser,
            "Runtime": Runtime, "NetworkDefinitionCreationFlag": Flag, "BuilderFlag": Bits, "MemoryPoolType": Pool,
            "TensorIOMode": Mode, "nptype": lambda dtype: dtype,
        }  # fmt: skip
        for name, value in parts.items():
            setattr(module, name, value)
        return module
