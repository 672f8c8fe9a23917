"""ONNX Runtime on an NVIDIA GPU: inputs and outputs bound to the device, nothing left to the CPU in silence."""

from __future__ import annotations

import base64
import functools
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wander.engines.base import Engine, EngineOptions, Session
from wander.engines.ort import PROVIDER as CPU
from wander.engines.ort import OrtSession, opened
from wander.errors import MissingDependency
from wander.signature import Arrays, Signature

if TYPE_CHECKING:
    import onnxruntime

PROVIDER = "CUDAExecutionProvider"
INSTALL = "pip uninstall -y onnxruntime; pip install 'wander[gpu]'"
IDENTITY = base64.b64decode(
    "CAc6QAoQCgF4EgF5IghJZGVudGl0eRIIaWRlbnRpdHlaEAoBeBILCgkIARIFCgMSAW5iEAoBeRILCgkIARIFCgMSAW5CBAoAEA0="
)
"""The smallest graph there is, y = x, as an ONNX file."""


class BoundSession(OrtSession):
    """Every run has a binding of its own, so that threads may share the session. `device` is where tensors lie."""

    device: ClassVar[str] = "cuda"

    def _results(self, session: onnxruntime.InferenceSession, inputs: Arrays) -> list[NDArray[Any]]:
        import onnxruntime

        binding = session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(
                name, onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value), self.device, 0)
            )
        for name in self._outputs:
            binding.bind_output(name, self.device, 0)
        session.run_with_iobinding(binding)
        found: list[NDArray[Any]] = binding.copy_outputs_to_cpu()
        return found


class CudaSession(BoundSession):
    """Without TF32, which would round what fp32 keeps."""

    engine: ClassVar[str] = "ort_cuda"
    providers: ClassVar[list[Any]] = [(PROVIDER, {"use_tf32": "0"}), CPU]

    def __init__(self, graph: Path, signature: Signature, options: EngineOptions) -> None:
        super().__init__(graph, signature, options)
        assert self._session is not None
        if PROVIDER not in self._session.get_providers():
            raise MissingDependency(f"ONNX Runtime fell back to the CPU; run: {INSTALL}")


class OrtCudaEngine(Engine):
    """Without a usable GPU ONNX Runtime names CUDA as available all the same, and runs on the CPU: so it is tried."""

    @classmethod
    def unavailable(cls) -> str | None:
        if importlib.util.find_spec("onnxruntime") is None:
            return "onnxruntime-gpu is not installed; run: pip install 'wander[gpu]'"
        return refused(PROVIDER)

    @classmethod
    def open(cls, graph: Path, signature: Signature, options: EngineOptions) -> Session:
        if reason := cls.unavailable():
            raise MissingDependency(reason)
        return opened(CudaSession, graph, signature, options)


@functools.cache
def refused(provider: str) -> str | None:
    """Why a session does not get a provider; None if it does. Opens a session, once."""
    import onnxruntime

    if provider not in onnxruntime.get_available_providers():
        return f"the ONNX Runtime that is installed is one without {provider}; run: {INSTALL}"
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    session = onnxruntime.InferenceSession(IDENTITY, settings, providers=list(dict.fromkeys([provider, CPU])))
    if provider not in session.get_providers():
        return (
            f"ONNX Runtime has {provider} but cannot use it here: there is no NVIDIA GPU, or no driver or CUDA that "
            f"fits (see: nvidia-smi); then run: {INSTALL}"
        )
    return None


plugin = OrtCudaEngine
