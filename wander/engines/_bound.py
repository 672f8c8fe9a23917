"""ONNX Runtime on an NVIDIA GPU: what its CUDA and its TensorRT provider share. Knows the options of neither."""

from __future__ import annotations

import base64
import contextlib
import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wander.engines.base import EngineOptions
from wander.engines.ort import PROVIDER as CPU
from wander.engines.ort import OrtSession
from wander.errors import MissingDependency
from wander.signature import Arrays, Signature

if TYPE_CHECKING:
    import onnxruntime

INSTALL = "pip uninstall -y onnxruntime; pip install 'wander[gpu]'"
IDENTITY = base64.b64decode(
    "CAc6QAoQCgF4EgF5IghJZGVudGl0eRIIaWRlbnRpdHlaEAoBeBILCgkIARIFCgMSAW5iEAoBeRILCgkIARIFCgMSAW5CBAoAEA0="
)
"""The smallest graph there is, y = x, as an ONNX file."""


class BoundSession(OrtSession):
    """Every run has a binding of its own, so that threads may share the session.

    Class attributes:
        provider: of ONNX Runtime, without which the session is refused.
        device: where tensors lie.
    """

    provider: ClassVar[str] = CPU
    device: ClassVar[str] = "cuda"

    def __init__(self, graph: Path, signature: Signature, options: EngineOptions) -> None:
        super().__init__(graph, signature, options)
        assert self._session is not None
        if self.provider not in self._session.get_providers():
            raise MissingDependency(f"ONNX Runtime fell back from {self.provider} to the CPU; run: {INSTALL}")

    def _results(self, session: onnxruntime.InferenceSession, inputs: Arrays) -> list[NDArray[Any]]:
        return self._bound_results(session, inputs, None)

    def _bound_results(
        self, session: onnxruntime.InferenceSession, inputs: Arrays, how: onnxruntime.RunOptions | None
    ) -> list[NDArray[Any]]:
        import onnxruntime

        binding = session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(
                name, onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value), self.device, 0)
            )
        for name in self._outputs:
            binding.bind_output(name, self.device, 0)
        session.run_with_iobinding(binding, how)
        found: list[NDArray[Any]] = binding.copy_outputs_to_cpu()
        return found


@functools.cache
def refused(provider: str) -> str | None:
    """Why a session does not get a provider; None if it does. Opens a session, once."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    if provider not in onnxruntime.get_available_providers():
        return f"the ONNX Runtime that is installed is one without {provider}; run: {INSTALL}"
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    load_cuda()
    try:
        session = onnxruntime.InferenceSession(
            IDENTITY, settings, providers=list(dict.fromkeys([provider, CPU])), enable_fallback=False
        )
        usable = provider in session.get_providers()
    except (RuntimeError, state.Fail, state.EPFail, state.RuntimeException):
        usable = False
    if not usable:
        return (
            f"ONNX Runtime has {provider} but cannot use it here: there is no NVIDIA GPU, or no driver or libraries "
            f"that fit it (see: nvidia-smi); then run: {INSTALL}"
        )
    return None


@functools.cache
def load_cuda() -> None:
    """Loads CUDA's libraries from the packages that `wander[gpu]` installs: they lie where no loader looks for them."""
    import onnxruntime

    with contextlib.redirect_stdout(sys.stderr):  # it prints what it does not find
        onnxruntime.preload_dlls()
