"""Which packages, engines and execution providers are here, and which of them really run something.

What a library says of itself is not believed: ONNX Runtime lists providers whose hardware is absent, and then computes
on the processor without a word. So every provider is given a graph that may run nowhere else.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from serving.doctor.graphs import write_graph
from wander.engines import engines
from wander.engines._bound import load_cuda
from wander.engines.ort import PROVIDER as CPU
from wander.signature import BATCH, Signature, TensorSpec

NOT_FOR_USERS = ("dev", "docs")
"""Extras of those who work on this project."""
FOR_A_GPU = "pip uninstall -y onnxruntime && pip install --force-reinstall 'wander[gpu]'"
"""Both packages of ONNX Runtime fill the same folder, and the one for processors must not be the last to do so."""


@dataclass(frozen=True)
class State:
    """Something that works here (`problem` is None), or does not, and why; `version` if it has one."""

    name: str
    problem: str | None = None
    version: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "works": self.problem is None}


def installed(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def extras() -> list[State]:
    """Every extra of this package, and which of its packages are absent."""
    wanted: dict[str, list[str]] = {}
    for requirement in requires("wander") or []:
        name, of = re.match(r"[\w.-]+", requirement), re.search(r"extra == ['\"]([\w-]+)['\"]", requirement)
        if name and of and of[1] not in NOT_FOR_USERS:
            wanted.setdefault(of[1], []).append(name[0])
    found = []
    for extra, packages in wanted.items():
        absent = [package for package in packages if installed(package) is None]
        problem = f"{', '.join(absent)} not installed; run: pip install 'wander[{extra}]'" if absent else None
        found.append(State(extra, problem))
    return found


def engine_states() -> list[State]:
    """Every engine but the fake one, as it speaks for itself."""
    return [State(name, engine.unavailable()) for name, engine in engines if name != "fake"]


def libraries() -> list[State]:
    """What computes, or might: imported where that is the only proof, and never torch, whose import takes seconds."""
    runtime = next((name for name in ("onnxruntime-gpu", "onnxruntime") if installed(name)), "onnxruntime")
    found = [_imported("onnxruntime", runtime), _imported("openvino", "openvino"), _imported("tensorrt", "tensorrt")]
    torch = installed("torch")
    return [*found, State("torch", None if torch else "not installed; only export and training need it", torch)]


def _imported(module: str, distribution: str) -> State:
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        return State(distribution, f"not installed ({error})")
    except (ImportError, OSError, RuntimeError) as error:  # installed, and something below it is not
        return State(distribution, f"cannot be imported: {_line(error)}", installed(distribution))
    return State(distribution, None, str(getattr(loaded, "__version__", installed(distribution))))


def providers() -> list[State]:
    """Every execution provider that ONNX Runtime lists, after a graph was run on it and on nothing else."""
    try:
        import onnxruntime
    except ImportError:
        return []
    onnxruntime.set_default_logger_severity(4)  # of a provider that does not load, what it raises is enough
    load_cuda()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        weights = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
        write_graph(path, [("MatMul", ("x", "w"), "y")], _square(16), {"w": weights})
        return [State(name, _trial(onnxruntime, path, weights, name)) for name in onnxruntime.get_available_providers()]


def _square(size: int) -> Signature:
    x, y = (TensorSpec(name=name, dtype="float32", dims=(BATCH, size)) for name in "xy")
    return Signature(inputs=(x,), outputs=(y,))


def _trial(onnxruntime: Any, path: Path, weights: Any, provider: str) -> str | None:
    """What is wrong with a provider; None if it ran the graph itself, with the right numbers."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if provider != CPU:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    x = np.random.default_rng(1).standard_normal((4, len(weights))).astype(np.float32)
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[provider], enable_fallback=0)
        if session.get_providers()[0] != provider:
            return f"listed, but ONNX Runtime takes {session.get_providers()[0]} in its place"
        (y,) = session.run(None, {"x": x})
    except Exception as error:  # noqa: BLE001 - whatever a provider's library raises is the finding
        return f"listed, but cannot run a graph: {_line(error)}"
    wrong = float(np.abs(y - x.astype(np.float64) @ weights).max())
    return None if wrong < 0.05 else f"gives wrong numbers: a product is off by {wrong:.3g}"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
