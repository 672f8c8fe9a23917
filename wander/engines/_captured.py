"""CUDA graphs of ONNX Runtime: batches of a few sizes, each recorded once, and replayed with one launch.

Off unless asked for, since none of this has been run on a GPU: the order of calls is that of ONNX Runtime 1.31's
documentation and sources, and is tested against stand-ins. What these demand:

- a replay reads and writes the addresses of the recording: so every size has buffers of its own, written in place;
- one recording for every `gpu_graph_id`, and -1 for a run that is not to be recorded;
- a recording belongs to the thread that made it, runs must not overlap, and while one is made no other thread of the
  process may ask CUDA for memory: so one thread does all that such sessions do with the GPU, from opening to closing.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from wander.engines._bound import BoundSession
from wander.engines.base import EngineOptions
from wander.errors import ConfigError, EngineError
from wander.signature import Arrays, Signature, TensorSpec

if TYPE_CHECKING:
    import onnxruntime

log = logging.getLogger(__name__)

T = TypeVar("T")

ID = "gpu_graph_id"
"""Of the run option."""
VARIABLE = "WANDER_CUDA_GRAPHS"
"""Of the environment: the batch sizes to record, separated by commas."""
MOST_SIZES = 16
"""Every size keeps buffers, and a recording, on the GPU."""
RUNS = 3
"""ONNX Runtime 1.24 records in the third: two allocate what the graph needs. Later ones do all that in the first."""
AGREE = 1e-3
"""How far a replay may be from a plain run of the same kernels, relative to max(1, max|answer|)."""


def sizes(signature: Signature, options: EngineOptions) -> tuple[int, ...] | None:
    """The batch sizes to record, of those asked for: none for a graph with a free dimension beside the batch.

    None if nothing is asked for. Raises ConfigError for what is no list of sizes.
    """
    if not (text := os.environ.get(VARIABLE, "")):
        return None
    try:
        found = sorted({int(one) for one in text.split(",") if one.strip()})
    except ValueError:
        found = [0]
    if not 1 <= len(found) <= MOST_SIZES or found[0] < 1:
        raise ConfigError(f"{VARIABLE} must be 1 to {MOST_SIZES} batch sizes, such as 1,8, not {text!r}")
    free = [
        f"{s.name}: {d}" for s in (*signature.inputs, *signature.outputs) for d in s.item_dims if isinstance(d, str)
    ]
    if found and free:
        log.info("no CUDA graphs for a graph with free dimensions (%s)", ", ".join(free))
        return ()
    return tuple(size for size in found if size <= options.max_batch_size)


class Recording:
    """One batch size: its buffers, whose addresses stay, and the id of its graph."""

    def __init__(
        self, session: onnxruntime.InferenceSession, signature: Signature, rows: int, number: int, device: str
    ) -> None:
        import onnxruntime

        def buffer(spec: TensorSpec) -> onnxruntime.OrtValue:
            shape = [rows, *spec.item_dims]
            return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.dtype(spec.dtype).type, device, 0)

        self._session = session
        self._inputs = {spec.name: buffer(spec) for spec in signature.inputs}
        self._outputs = {spec.name: buffer(spec) for spec in signature.outputs}
        self._binding = session.io_binding()
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)
        self._how = recorded_as(number)

    def __call__(self, inputs: Arrays) -> list[NDArray[Any]]:
        for name, value in inputs.items():
            self._inputs[name].update_inplace(np.ascontiguousarray(value))
        self._session.run_with_iobinding(self._binding, self._how)
        return [np.array(value.numpy()) for value in self._outputs.values()]


class CapturedSession(BoundSession):
    """Batches of the recorded sizes are replayed, all others run as ever; one at a time.

    Even without a size it keeps to the thread, so as not to disturb the recordings of others.
    """

    def __init__(self, graph: Path, signature: Signature, options: EngineOptions, sizes: tuple[int, ...]) -> None:
        self._sizes = sizes
        self._recordings: dict[int, Recording] = {}
        on_the_thread(lambda: self._open(graph, signature, options))

    def _open(self, graph: Path, signature: Signature, options: EngineOptions) -> None:
        super().__init__(graph, signature, options)
        session = self._session
        assert session is not None
        self._plainly = recorded_as(-1)
        for number, rows in enumerate(self._sizes, 1):  # 0 is not for users
            recording = Recording(session, signature, rows, number, self.device)
            for _ in range(RUNS):
                recording(_inputs(signature, rows, zeros=True))
            self._compare(session, recording, rows)
            self._recordings[rows] = recording

    def _compare(self, session: onnxruntime.InferenceSession, recording: Recording, rows: int) -> None:
        """Other inputs than were recorded have to give other answers: those of a plain run."""
        inputs = _inputs(self.signature, rows)
        for spec, found, plain in zip(
            self.signature.outputs, recording(inputs), self._bound_results(session, inputs, self._plainly), strict=True
        ):
            if not np.allclose(found, plain, rtol=0, atol=AGREE * max(1.0, np.abs(plain).max()), equal_nan=True):
                raise EngineError(
                    f"a CUDA graph of {rows} rows answers otherwise than a plain run ({spec.name}); unset {VARIABLE}"
                )

    def _results(self, session: onnxruntime.InferenceSession, inputs: Arrays) -> list[NDArray[Any]]:
        return on_the_thread(lambda: self._results_there(session, inputs))

    def _results_there(self, session: onnxruntime.InferenceSession, inputs: Arrays) -> list[NDArray[Any]]:
        recording = self._recordings.get(len(next(iter(inputs.values()))))
        return recording(inputs) if recording else self._bound_results(session, inputs, self._plainly)

    def describe(self) -> dict[str, str]:
        facts = super().describe()
        if self._recordings:
            facts["provider"] += f"; CUDA graphs of {', '.join(map(str, self._recordings))} rows"
        return facts

    def close(self) -> None:
        on_the_thread(self._close)

    def _close(self) -> None:
        self._recordings.clear()
        super().close()


def recorded_as(number: int) -> onnxruntime.RunOptions:
    """Options of a run that records, or replays, the graph of this number; of a plain run if it is -1."""
    import onnxruntime

    how = onnxruntime.RunOptions()
    how.add_run_config_entry(ID, str(number))
    return how


@functools.cache
def _thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "wander-cuda-graphs")


def on_the_thread(work: Callable[[], T]) -> T:
    """What `work` gives, or raises, on the one thread of the process that these sessions have."""
    return _thread().submit(work).result()


def _inputs(signature: Signature, rows: int, zeros: bool = False) -> dict[str, NDArray[Any]]:
    """Seeded normal floats and ones; or zeros."""
    random = np.random.default_rng(0)
    found = {}
    for spec in signature.inputs:
        shape, kind = [rows, *(int(size) for size in spec.item_dims)], np.dtype(spec.dtype)
        full = random.standard_normal(shape) if np.issubdtype(kind, np.floating) else np.ones(shape)
        found[spec.name] = (0 * full if zeros else full).astype(kind)
    return found
