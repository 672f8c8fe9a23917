"""Stand-ins for ONNX Runtime's sessions on a GPU: real ones on the CPU, with the habits of the GPU providers."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import onnxruntime

CPU = "CPUExecutionProvider"
REAL = onnxruntime.InferenceSession


class TensorRtProvider:
    """What the TensorRT provider does with its options, with a log of it (`calls`), and what to do wrong (`fail`).

    A plan is a copy of the graph, and what is run is the plan, so that one of another graph gives wrong answers; it is
    found again by the graph's name alone.
    """

    def __init__(self, known: Iterable[str]) -> None:
        self.known = set(known)
        self.calls: list[str] = []
        self.options: dict[str, str] = {}
        self.fail: set[str] = set()
        provider = self

        class Session(REAL):  # type: ignore[misc,valid-type]
            def __init__(self, graph: Any, settings: Any, providers: list[Any], enable_fallback: bool) -> None:
                assert not enable_fallback, "it would fall back in silence"
                name, options = providers[0] if isinstance(providers[0], tuple) else (providers[0], {})
                if "libraries" in provider.fail:
                    raise RuntimeError("Please install TensorRT libraries as mentioned")
                self._names = [CPU] if "silent" in provider.fail else [name, CPU]
                if isinstance(graph, Path):
                    provider.called(providers, settings, options)
                    graph = provider.plan(graph, options)
                super().__init__(graph, onnxruntime.SessionOptions(), providers=[CPU])

            def get_providers(self) -> list[str]:
                return self._names

            def run_with_iobinding(self, binding: Any, how: Any = None) -> None:
                provider.calls.append("run")
                super().run_with_iobinding(binding, how)

        self.session = Session

    def called(self, providers: list[Any], settings: Any, options: Mapping[str, str]) -> None:
        assert len(providers) == 1, "another provider would take what TensorRT does not"
        assert settings.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
        assert set(options) <= self.known, set(options) - self.known
        assert all(isinstance(value, str) for value in options.values())
        self.options = dict(options)

    def plan(self, graph: Path, options: Mapping[str, str]) -> Path:
        """Like the provider, it makes no parents of a folder."""
        if "build" in self.fail:
            raise onnxruntime.capi.onnxruntime_pybind11_state.EPFail("TensorRT EP failed to create engine from network")
        if options.get("trt_timing_cache_enable") == "True":
            (Path(options["trt_timing_cache_path"]) / "sm90.timing").write_bytes(b"timings")
        if options.get("trt_engine_cache_enable") != "True":
            self.calls.append("build")
            return graph
        plan = Path(options["trt_engine_cache_path"]) / f"{graph.name}.engine"
        self.calls.append("load" if plan.exists() else "build")
        if not plan.exists():
            shutil.copy(graph, plan)
        return plan


class CapturingProvider:
    """CUDA graphs as the CUDA provider makes them: the third run of an id is recorded, and from then on the id replays
    the binding of its recording, whatever is bound. A recording belongs to its thread, and runs must not overlap."""

    RUNS = 3

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.threads: set[int] = set()
        self.providers: list[Any] = []
        self.fail: set[str] = set()
        self.running = threading.Lock()
        provider = self

        class Session(REAL):  # type: ignore[misc,valid-type]
            def __init__(self, graph: Any, settings: Any, providers: list[Any], enable_fallback: bool) -> None:
                assert not enable_fallback, "it would fall back in silence"
                provider.providers = providers
                self._names = [name if isinstance(name, str) else name[0] for name in providers]
                if "nodes" in provider.fail and isinstance(graph, Path):
                    raise onnxruntime.capi.onnxruntime_pybind11_state.Fail("nodes have not been partitioned to CUDA")
                super().__init__(graph, settings, providers=[CPU])
                self._bindings: dict[str, list[Any]] = {}

            def get_providers(self) -> list[str]:
                return self._names

            def run_with_iobinding(self, binding: Any, how: Any = None) -> None:
                number = how.get_run_config_entry("gpu_graph_id") if how else "none"
                provider.calls.append(number)
                provider.threads.add(threading.get_ident())
                if number not in ("-1", "none"):
                    bindings = self._bindings.setdefault(number, [])
                    bindings.append(binding)
                    binding = bindings[provider.RUNS - 1] if len(bindings) > provider.RUNS else binding
                assert provider.running.acquire(blocking=False), "runs overlap"
                try:
                    super().run_with_iobinding(binding, how)
                finally:
                    provider.running.release()

        self.session = Session
