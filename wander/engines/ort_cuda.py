"""ONNX Runtime on an NVIDIA GPU: inputs and outputs bound to the device, nothing left to the CPU in silence."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from wander.engines import _captured
from wander.engines._bound import BoundSession, refused
from wander.engines.base import Engine, EngineOptions, Session
from wander.engines.ort import PROVIDER as CPU
from wander.engines.ort import opened
from wander.errors import BundleError, MissingDependency
from wander.signature import Signature

if TYPE_CHECKING:
    import onnxruntime

PROVIDER = "CUDAExecutionProvider"
EXACT = {"use_tf32": "0"}
"""TF32 would round what fp32 keeps."""
RECORDING = {"enable_cuda_graph": "1"}


class CudaSession(BoundSession):
    engine: ClassVar[str] = "ort_cuda"
    provider: ClassVar[str] = PROVIDER
    providers: ClassVar[list[Any]] = [(PROVIDER, EXACT), CPU]


class CudaGraphsSession(_captured.CapturedSession):
    engine: ClassVar[str] = "ort_cuda"
    provider: ClassVar[str] = PROVIDER

    def _prepare(self, settings: onnxruntime.SessionOptions, graph: Path, options: EngineOptions) -> list[Any]:
        return [(PROVIDER, {**EXACT, **RECORDING}), CPU] if self._sizes else CudaSession.providers


class OrtCudaEngine(Engine):
    """Without a usable GPU ONNX Runtime names CUDA as available all the same, and runs on the CPU: so it is tried.

    CUDA graphs are taken only where they are asked for (`_captured.VARIABLE`).
    """

    @classmethod
    def unavailable(cls) -> str | None:
        if importlib.util.find_spec("onnxruntime") is None:
            return "onnxruntime-gpu is not installed; run: pip install 'wander[gpu]'"
        return refused(PROVIDER)

    @classmethod
    def open(cls, graph: Path, signature: Signature, options: EngineOptions) -> Session:
        """Raises ConfigError for batch sizes that cannot be read."""
        if reason := cls.unavailable():
            raise MissingDependency(reason)
        if (sizes := _captured.sizes(signature, options)) is None:
            return opened(CudaSession, graph, signature, options)
        try:
            return opened(functools.partial(CudaGraphsSession, sizes=sizes), graph, signature, options)
        except BundleError as error:
            raise BundleError(f"{error}; it may run without {_captured.VARIABLE}") from error


plugin = OrtCudaEngine
