"""ONNX Runtime on the CPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from numpy.typing import NDArray

from wander.engines.base import Engine, EngineOptions, Session
from wander.errors import BundleError, EngineError, InputError, MissingDependency, ServiceError
from wander.signature import Arrays, Signature

if TYPE_CHECKING:
    import onnxruntime

PROVIDER = "CPUExecutionProvider"
AnySession = TypeVar("AnySession", bound=Session)
BEYOND = "indices element out of data bounds"
"""How ONNX Runtime says that there is no such row in a table (1.31.1)."""


class OrtSession(Session):
    """`onnxruntime.InferenceSession` is safe to run from several threads.

    Class attributes:
        engine: what it calls itself.
        providers: of ONNX Runtime, with their options, the preferred first.
    """

    engine: ClassVar[str] = "ort"
    providers: ClassVar[list[Any]] = [PROVIDER]

    def __init__(self, graph: Path, signature: Signature, options: EngineOptions) -> None:
        import onnxruntime

        super().__init__(signature)
        self._errors = run_errors()
        settings = session_settings(options.threads)
        self._threads = options.threads
        self._outputs = [spec.name for spec in signature.outputs]
        self._session: onnxruntime.InferenceSession | None = onnxruntime.InferenceSession(
            graph, settings, providers=self._prepare(settings, graph, options), enable_fallback=False
        )
        check_names(graph, self._session.get_inputs(), self._session.get_outputs(), signature)

    def _prepare(self, settings: onnxruntime.SessionOptions, graph: Path, options: EngineOptions) -> list[Any]:
        """The providers of this session; may add to its settings."""
        return self.providers

    def _run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        session = self._session  # another thread may close it meanwhile
        if session is None:
            raise EngineError("the session is closed")
        try:
            results = self._results(session, inputs)
        except self._errors as error:
            raise explained(error, inputs) from error
        return dict(zip(self._outputs, results, strict=True))

    def _results(self, session: onnxruntime.InferenceSession, inputs: Arrays) -> list[NDArray[Any]]:
        """The outputs, in their order."""
        found: list[NDArray[Any]] = session.run(self._outputs, dict(inputs))
        return found

    def describe(self) -> dict[str, str]:
        import onnxruntime

        providers = ", ".join(self._session.get_providers()) if self._session is not None else "closed"
        return {
            "engine": self.engine,
            "provider": providers,
            "version": onnxruntime.__version__,
            "threads": str(self._threads or "all"),
        }

    def close(self) -> None:
        self._session = None


class OrtEngine(Engine):
    """All of ONNX Runtime's graph optimisations are on: parity is checked at the level that is served.

    Class attributes:
        session: what opens a graph.
    """

    session: ClassVar[Callable[[Path, Signature, EngineOptions], Session]] = OrtSession

    @classmethod
    def unavailable(cls) -> str | None:
        if importlib.util.find_spec("onnxruntime") is None:
            return "onnxruntime is not installed; run: pip install 'wander[serve]'"
        return None

    @classmethod
    def open(cls, graph: Path, signature: Signature, options: EngineOptions) -> Session:
        if reason := cls.unavailable():
            raise MissingDependency(reason)
        if options.precision == "bf16":
            raise MissingDependency("ONNX Runtime does not compute bf16 on CPUs; use --engine openvino, or auto")
        return opened(cls.session, graph, signature, options)


def check_names(graph: Path, inputs: Iterable[Any], outputs: Iterable[Any], signature: Signature) -> None:
    """Raises BundleError if a graph's inputs and outputs (what has a `name`) are not those of its signature."""
    names = ([one.name for one in inputs], [one.name for one in outputs])
    if names != ([spec.name for spec in signature.inputs], [spec.name for spec in signature.outputs]):
        raise BundleError(f"{graph.name} has inputs and outputs {names}, which are not those of its signature")


def session_settings(threads: int) -> onnxruntime.SessionOptions:
    """With all graph optimisations, silent, and with so many threads for an operator; 0 leaves the choice to it."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 4  # what fails is raised, and whoever can send what fails could fill the log
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    return settings


def run_errors() -> tuple[type[Exception], ...]:
    """What `onnxruntime.InferenceSession.run` raises if a graph fails."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return state.Fail, state.RuntimeException, state.InvalidArgument, state.EPFail


def explained(error: Exception, inputs: Arrays) -> ServiceError:
    """What to raise for an error of a run: InputError if what was sent is at fault, else EngineError."""
    # Shapes and types were checked: what is left to a graph is a number that it looks something up by.
    numbers = [name for name, value in inputs.items() if value.dtype.kind in "iu"]
    if BEYOND in str(error) and numbers:
        said = str(error).partition(BEYOND)[2].strip(" ,")
        return InputError(f"a number in {' or '.join(numbers)} is beyond what the graph knows: {said}", numbers[0])
    return EngineError(f"ONNX Runtime failed: {error}")


def opened(
    kind: Callable[[Path, Signature, EngineOptions], AnySession],
    graph: Path,
    signature: Signature,
    options: EngineOptions,
) -> AnySession:
    """A session of ONNX Runtime.

    Raises BundleError for a graph that it cannot read, EngineError if a provider fails otherwise.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    unreadable = (
        state.EPFail,
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoSuchFile,
        state.NotImplemented,
        state.RuntimeException,
        UnicodeDecodeError,  # of its own message, which quotes a damaged name
    )
    try:
        return kind(graph, signature, options)
    except unreadable as error:
        raise BundleError(f"ONNX Runtime cannot read {graph}: {error}") from error
    except RuntimeError as error:  # of a provider: no memory, libraries that do not fit
        raise EngineError(f"ONNX Runtime cannot open {graph}: {error}") from error


plugin = OrtEngine
