"""ONNX Runtime on the CPU with the branches of a graph, as the encoders of modalities are, at the same time.

ONNX Runtime runs the operators of a graph one after another and shares out each over the threads. Small operators gain
nothing from that. Here a branch has a thread, or a fair share of the threads, and the branches run side by side. (Its
own ORT_PARALLEL does not do so: 1.31.1 puts all operators on the CPU in one stream, whatever the threads.)
"""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray

from wander.engines.base import EngineOptions, Session
from wander.engines.ort import PROVIDER, OrtEngine, check_names, explained, run_errors, session_settings
from wander.errors import BundleError, EngineError
from wander.signature import Arrays, Signature

if TYPE_CHECKING:
    import onnxruntime

WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
"""Where a graph that is not read from a file has its weights."""


@dataclass(frozen=True)
class _Piece:
    """A piece of the graph, open: tensors in, tensors out."""

    session: onnxruntime.InferenceSession
    inputs: frozenset[str]
    outputs: Sequence[str]

    def run(self, values: Arrays) -> dict[str, NDArray[Any]]:
        found = self.session.run(self.outputs, {name: values[name] for name in self.inputs})
        return dict(zip(self.outputs, found, strict=True))


class _Batch:
    """One batch on its way: whoever works on it takes the first piece that has all it reads."""

    def __init__(self, pieces: Sequence[_Piece], inputs: Arrays) -> None:
        self.values: dict[str, NDArray[Any]] = dict(inputs)
        self._waiting = list(pieces)
        self._left = len(pieces)
        self._changed = threading.Condition()
        self._error: Exception | None = None

    def work(self) -> None:
        """Until all pieces have run. Raises what a piece of this or of another worker raised."""
        while (piece := self._next()) is not None:
            try:
                found = piece.run(self.values)
            except Exception as error:
                self._end(error)
                raise
            with self._changed:
                self.values = {**self.values, **found}  # a new one: others are reading
                self._left -= 1
                self._changed.notify_all()
        if self._error is not None:
            raise self._error

    def _next(self) -> _Piece | None:
        with self._changed:
            while self._left and self._error is None:
                for place, piece in enumerate(self._waiting):
                    if piece.inputs <= self.values.keys():
                        return self._waiting.pop(place)
                self._changed.wait()
        return None

    def _end(self, error: Exception) -> None:
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()


class OrtBranchesSession(Session):
    """May be called from several threads at once: they share the helpers, and a batch that gets none runs alone."""

    def __init__(self, graph: Path, signature: Signature, options: EngineOptions) -> None:
        import onnx
        from google.protobuf.message import DecodeError

        from wander.engines._pieces import cut

        super().__init__(signature)
        try:
            model = onnx.load(graph, load_external_data=False)
        except (OSError, DecodeError) as error:
            raise BundleError(f"{graph} cannot be read: {error}") from error
        check_names(graph, model.graph.input, model.graph.output, signature)
        threads = options.threads or len(os.sched_getaffinity(0))
        try:
            pieces = cut(model, threads)
        except BundleError as error:
            raise BundleError(f"{graph.name}: {error}") from error
        given = {spec.name for spec in signature.inputs}
        self._workers = min(threads, sum(given.issuperset(piece.inputs) for piece in pieces))
        self._threads = max(1, threads // self._workers)
        self._errors = run_errors()
        self._pieces: list[_Piece] | None = [
            _Piece(self._open(one.model.SerializeToString(), graph.parent), frozenset(one.inputs), one.outputs)
            for one in pieces
        ]
        self._pool = ThreadPoolExecutor(max(1, self._workers - 1), "branch")

    def _open(self, model: bytes, folder: Path) -> onnxruntime.InferenceSession:
        import onnxruntime

        settings = session_settings(self._threads)
        settings.add_session_config_entry(WEIGHTS_FOLDER, str(folder))
        return onnxruntime.InferenceSession(model, settings, providers=[PROVIDER], enable_fallback=False)

    def _run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        pieces = self._pieces  # another thread may close it meanwhile
        if pieces is None:
            raise EngineError("the session is closed")
        batch = _Batch(pieces, inputs)
        try:
            for _ in range(self._workers - 1):
                self._pool.submit(batch.work)
        except RuntimeError as error:  # the helpers were sent home meanwhile
            raise EngineError("the session is closed") from error
        try:
            batch.work()
        except self._errors as error:
            raise explained(error, inputs) from error
        return {spec.name: batch.values[spec.name] for spec in self.signature.outputs}

    def describe(self) -> dict[str, str]:
        import onnxruntime

        return {
            "engine": "ort_branches",
            "provider": PROVIDER if self._pieces is not None else "closed",
            "version": onnxruntime.__version__,
            "threads": f"{self._workers} side by side, {self._threads} each",
            "pieces": str(len(self._pieces or ())),
        }

    def close(self) -> None:
        self._pieces = None
        self._pool.shutdown(wait=False)


class OrtBranchesEngine(OrtEngine):
    """For graphs of several branches on several threads. A graph that has one runs as on `ort`."""

    session: ClassVar[Callable[[Path, Signature, EngineOptions], Session]] = OrtBranchesSession

    @classmethod
    def unavailable(cls) -> str | None:
        if (reason := super().unavailable()) is not None:
            return reason
        if importlib.util.find_spec("onnx") is None:
            return "onnx is not installed; run: pip install 'wander[branches]'"
        return None


plugin = OrtBranchesEngine
