"""Memory, copies and streams of one NVIDIA GPU, through NVIDIA's own `cuda-bindings`. Knows no graph."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wander.errors import EngineError

INSTALL = "pip install 'wander[gpu]'"


def unavailable() -> str | None:
    """Why no GPU can be used here; None if one can."""
    try:
        from cuda.bindings import runtime
    except ImportError:
        return f"cuda-bindings is not installed; run: {INSTALL}"
    error, count = runtime.cudaGetDeviceCount()
    if int(error) or not count:
        return (
            "there is no NVIDIA GPU that CUDA can use here (see: nvidia-smi); install its driver, then run: " + INSTALL
        )
    return None


def facts() -> dict[str, str]:
    """The GPU, its compute capability and the driver, as they say themselves."""
    from cuda.bindings import nvml, runtime

    found = _checked(runtime.cudaGetDeviceProperties(0))
    nvml.init_v2()
    name = found.name.decode() if isinstance(found.name, bytes) else str(found.name)
    return {
        "gpu": name.rstrip("\0"),
        "capability": f"{found.major}.{found.minor}",
        "driver": str(nvml.system_get_driver_version()),
    }


class Stream:
    """A queue of work on the GPU. What is asked of it is done in order; `wait` waits for all of it."""

    def __init__(self) -> None:
        from cuda.bindings import runtime

        self._runtime = runtime
        self._stream = _checked(runtime.cudaStreamCreate())

    @property
    def handle(self) -> int:
        return int(self._stream)

    def upload(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """The array into the pinned half of a buffer, and from there, in time, into the other."""
        np.copyto(buffer.host(array.shape, array.dtype), array)
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        _checked(self._runtime.cudaMemcpyAsync(buffer.device, buffer.pinned, array.nbytes, kind, self._stream))

    def download(self, buffer: Buffer, size: int) -> None:
        """So many bytes of a buffer into its pinned half, in time."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        _checked(self._runtime.cudaMemcpyAsync(buffer.pinned, buffer.device, size, kind, self._stream))

    def wait(self) -> None:
        _checked(self._runtime.cudaStreamSynchronize(self._stream))

    def close(self) -> None:
        _checked(self._runtime.cudaStreamDestroy(self._stream))


class Buffer:
    """The same number of bytes twice: on the GPU (`device`), and pinned in the computer's memory (`pinned`)."""

    def __init__(self, size: int) -> None:
        from cuda.bindings import runtime

        self._runtime = runtime
        self.size = size
        self.device = int(_checked(runtime.cudaMalloc(size)))
        try:
            self.pinned = int(_checked(runtime.cudaHostAlloc(size, runtime.cudaHostAllocDefault)))
        except EngineError:
            runtime.cudaFree(self.device)
            raise

    def host(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """The pinned half as an array of this shape; not a copy."""
        kind = np.dtype(dtype)
        size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        if size > self.size:
            raise EngineError(f"{size} bytes do not fit a buffer of {self.size}")
        return np.frombuffer((ctypes.c_char * size).from_address(self.pinned), kind).reshape(shape)

    def close(self) -> None:
        _checked(self._runtime.cudaFree(self.device))
        _checked(self._runtime.cudaFreeHost(self.pinned))


def _checked(answer: Any) -> Any:
    """What a CUDA call gave beside its error. Raises EngineError with CUDA's own words."""
    from cuda.bindings import runtime

    error, *values = answer if isinstance(answer, tuple) else (answer,)
    if int(error):
        _, said = runtime.cudaGetErrorString(error)
        raise EngineError(f"CUDA failed: {said.decode() if isinstance(said, bytes) else said}")
    return values[0] if values else None
