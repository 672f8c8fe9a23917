"""ONNX's own reference evaluator: slow, and of nobody's optimisation. A worked example of an engine."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from wander.engines.base import Engine, EngineOptions, Session
from wander.errors import BundleError, EngineError, MissingDependency
from wander.signature import Arrays, Signature


class ReferenceSession(Session):
    """Every operator in numpy, one after the other."""

    def __init__(self, graph: Path, signature: Signature) -> None:
        import onnx
        from onnx.reference import ReferenceEvaluator

        super().__init__(signature)
        model = onnx.load(graph)
        names = ([i.name for i in model.graph.input], [o.name for o in model.graph.output])
        if names != ([spec.name for spec in signature.inputs], [spec.name for spec in signature.outputs]):
            raise BundleError(f"{graph.name} has inputs and outputs {names}, which are not those of its signature")
        self._names = names[1]
        self._evaluator: ReferenceEvaluator | None = ReferenceEvaluator(model)

    def _run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        evaluator = self._evaluator  # another thread may close it meanwhile
        if evaluator is None:
            raise EngineError("the session is closed")
        try:
            return dict(zip(self._names, evaluator.run(None, dict(inputs)), strict=True))
        except (RuntimeError, TypeError, ValueError) as error:
            raise EngineError(f"the reference evaluator failed: {error}") from error

    def describe(self) -> dict[str, str]:
        import onnx

        return {"engine": "onnx_reference", "provider": "numpy", "version": onnx.__version__, "threads": "1"}

    def close(self) -> None:
        self._evaluator = None


class ReferenceEngine(Engine):
    @classmethod
    def unavailable(cls) -> str | None:
        if importlib.util.find_spec("onnx") is None:
            return "onnx is not installed; run: pip install 'wander[export]'"
        return None

    @classmethod
    def open(cls, graph: Path, signature: Signature, options: EngineOptions) -> Session:
        if reason := cls.unavailable():
            raise MissingDependency(reason)
        from google.protobuf.message import DecodeError

        try:
            return ReferenceSession(graph, signature)
        except (DecodeError, OSError, ValueError, RuntimeError) as error:
            raise BundleError(f"the reference evaluator cannot read {graph}: {error}") from error


plugin = ReferenceEngine
