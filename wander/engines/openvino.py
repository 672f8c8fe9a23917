"""OpenVINO on the CPU: fp32 in full, bf16 where the graph was made for it and the processor has it, int8 as QDQ."""

from __future__ import annotations

import importlib.util
import os
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wander.engines.base import Engine, EngineOptions, Session
from wander.errors import BundleError, EngineError, MissingDependency
from wander.signature import Arrays, Signature

if TYPE_CHECKING:
    import openvino

os.environ.setdefault("OPENVINO_TELEMETRY_OPT_OUT", "1")

DEVICE = "CPU"
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f32", "int8": "f32"}
"""Arithmetic of what a graph leaves open. By itself OpenVINO computes fp32 graphs in bf16 on processors that have it,
which no parity gate of fp32 would let pass; no x86 processor that is supported here multiplies in fp16."""

NO_BF16 = "this processor has no bf16; export the model with --precision fp32, or use ort"


def has_bf16() -> bool:
    """Whether OpenVINO, which must be there, computes bf16 on this processor."""
    import openvino

    return "BF16" in openvino.Core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")


class OpenVinoSession(Session):
    """A request of OpenVINO's runs one batch at a time: every thread takes one that is idle, or a new one."""

    def __init__(self, graph: Path, signature: Signature, options: EngineOptions) -> None:
        import openvino

        super().__init__(signature)
        if options.precision == "bf16" and not has_bf16():
            raise MissingDependency(NO_BF16)
        core = openvino.Core()
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": HINTS[options.precision],
        }
        if options.threads:
            settings["INFERENCE_NUM_THREADS"] = options.threads
        model = core.read_model(graph)
        self._outputs = [spec.name for spec in signature.outputs]
        for ports, specs in ((model.inputs, signature.inputs), (model.outputs, signature.outputs)):
            names = [port.get_names() for port in ports]  # an output may have several
            if len(names) != len(specs) or any(spec.name not in own for spec, own in zip(specs, names, strict=True)):
                raise BundleError(f"{graph.name} has the tensors {names}, which are not those of its signature")
        self._threads = options.threads
        self._precision = HINTS[options.precision]
        self._model: openvino.CompiledModel | None = core.compile_model(model, DEVICE, settings)
        self._idle: deque[openvino.InferRequest] = deque()

    def _run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        model = self._model  # another thread may close it meanwhile
        if model is None:
            raise EngineError("the session is closed")
        try:
            request = self._idle.pop()
        except IndexError:
            request = model.create_infer_request()
        try:
            # As views: OpenVINO copies what it cannot take as it lies. Its own results are reused by the next batch.
            found = request.infer({name: np.ascontiguousarray(value) for name, value in inputs.items()}, True, False)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed: {error}") from error
        results = {name: np.array(value) for name, value in zip(self._outputs, found.values(), strict=True)}
        self._idle.append(request)
        return results

    def describe(self) -> dict[str, str]:
        import openvino

        return {
            "engine": "openvino",
            "provider": f"{DEVICE}, {self._precision}" if self._model is not None else "closed",
            "version": openvino.__version__,
            "threads": str(self._threads or "all"),
        }

    def close(self) -> None:
        self._model = None
        self._idle.clear()


class OpenVinoEngine(Engine):
    """Parity is checked with the optimisations that are served, as with every engine."""

    @classmethod
    def unavailable(cls) -> str | None:
        if importlib.util.find_spec("openvino") is None:
            return "openvino is not installed; run: pip install 'wander[openvino]'"
        return None

    @classmethod
    def open(cls, graph: Path, signature: Signature, options: EngineOptions) -> Session:
        if reason := cls.unavailable():
            raise MissingDependency(reason)
        try:
            return OpenVinoSession(graph, signature, options)
        except RuntimeError as error:  # all that OpenVINO raises
            said = str(error).strip().splitlines()
            raise BundleError(f"OpenVINO cannot read {graph}: {said[-1] if said else 'no reason given'}") from error


plugin = OpenVinoEngine
