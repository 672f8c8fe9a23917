"""NVIDIA TensorRT, by its own Python bindings: a plan for this GPU, and for every session a context and a stream."""

from __future__ import annotations

import importlib.util
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wander.engines import _cuda
from wander.engines._plans import check, open_plan, ranges
from wander.engines.base import Engine, EngineOptions, Session
from wander.errors import BundleError, EngineError, MissingDependency
from wander.signature import Arrays, Signature


class TensorRtSession(Session):
    """One execution context, which runs one batch at a time."""

    def __init__(self, trt: Any, engine: Any, graph: Path, signature: Signature, options: EngineOptions) -> None:
        super().__init__(signature)
        self._trt = trt
        self._profile = ranges(signature, options)
        self._lock = threading.Lock()
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        found = (
            [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT],
            [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT],
        )
        if found != ([spec.name for spec in signature.inputs], [spec.name for spec in signature.outputs]):
            raise BundleError(f"{graph.name} has inputs and outputs {found}, which are not those of its signature")
        for spec in (*signature.inputs, *signature.outputs):
            if np.dtype(trt.nptype(engine.get_tensor_dtype(spec.name))) != np.dtype(spec.dtype):
                raise BundleError(f"{graph.name} has another type for {spec.name} than its signature, {spec.dtype}")
        if (context := engine.create_execution_context()) is None:
            raise EngineError(f"TensorRT has no memory left for another instance of {graph.name}")
        self._engine, self._context = engine, context
        self._buffers: dict[str, _cuda.Buffer] = {}
        self._stream: _cuda.Stream | None = _cuda.Stream()

    def _run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        check(inputs, self._profile)
        with self._lock:
            stream, context = self._stream, self._context
            if stream is None:
                raise EngineError("the session is closed")
            for name, array in inputs.items():
                if not context.set_input_shape(name, array.shape):
                    raise EngineError(f"TensorRT refuses the shape {array.shape} of {name}")
                stream.upload(self._buffer(name, array.nbytes), array)
            try:
                unset = context.infer_shapes()
            except RuntimeError as error:
                raise EngineError(f"TensorRT cannot follow these shapes through the graph: {error}") from error
            if unset:
                raise EngineError(f"TensorRT lacks the shapes of {', '.join(unset)}")
            shapes = {}
            for spec in self.signature.outputs:
                shapes[spec.name] = tuple(context.get_tensor_shape(spec.name))
                self._buffer(spec.name, _bytes(shapes[spec.name], spec.dtype))
            if not context.execute_async_v3(stream.handle):
                raise EngineError("TensorRT failed; its log says why")
            for spec in self.signature.outputs:
                stream.download(self._buffers[spec.name], _bytes(shapes[spec.name], spec.dtype))
            stream.wait()
            return {
                spec.name: self._buffers[spec.name].host(shapes[spec.name], spec.dtype).copy()
                for spec in self.signature.outputs
            }

    def _buffer(self, name: str, size: int) -> _cuda.Buffer:
        """The tensor's buffer, grown if it is too small; its address is told to TensorRT."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < size:
            if buffer is not None:
                del self._buffers[name]
                buffer.close()
            buffer = self._buffers[name] = _cuda.Buffer(size)
            if not self._context.set_tensor_address(name, buffer.device):
                raise EngineError(f"TensorRT refuses the address of {name}")
        return buffer

    def describe(self) -> dict[str, str]:
        facts = _cuda.facts()
        return {
            "engine": "tensorrt",
            "provider": f"{facts['gpu']}, driver {facts['driver']}",
            "version": str(self._trt.__version__),
            "threads": "1",
        }

    def close(self) -> None:
        with self._lock:
            stream, self._stream = self._stream, None
            self._context = self._engine = None
            for buffer in self._buffers.values():
                buffer.close()
            self._buffers.clear()
            if stream is not None:
                stream.close()


def _bytes(shape: tuple[int, ...], dtype: str) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize


class TensorRtEngine(Engine):
    """Precision is that of the graph: export with fp16, bf16 or static int8 for anything but fp32."""

    @classmethod
    def unavailable(cls) -> str | None:
        if importlib.util.find_spec("tensorrt") is None:
            return f"tensorrt is not installed; run: {_cuda.INSTALL} --extra-index-url https://pypi.nvidia.com"
        try:
            import tensorrt  # noqa: F401
        except (ImportError, OSError) as error:  # the bindings without the libraries
            reason = str(error).strip().partition("\n")[0]
            return f"tensorrt cannot load its libraries ({reason}); run: {_cuda.INSTALL}"
        return _cuda.unavailable()

    @classmethod
    def open(cls, graph: Path, signature: Signature, options: EngineOptions) -> Session:
        if reason := cls.unavailable():
            raise MissingDependency(reason)
        import tensorrt as trt

        engine = open_plan(trt, graph, signature, options)
        return TensorRtSession(trt, engine, graph, signature, options)


plugin = TensorRtEngine
