"""TensorRT within ONNX Runtime: the same plans as the engine `tensorrt` makes, by other hands, to check it against.

The whole graph runs on TensorRT, or none of it. Provider options are those of ONNX Runtime 1.31.1.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray

from wander.engines import _cuda, _plans
from wander.engines._bound import BoundSession, refused
from wander.engines._cache import cache_folder, digest
from wander.engines.base import Engine, EngineOptions, Session
from wander.engines.ort import opened
from wander.engines.tensorrt import TensorRtEngine
from wander.errors import BundleError, MissingDependency
from wander.signature import Arrays, Signature

if TYPE_CHECKING:
    import onnxruntime

log = logging.getLogger(__name__)

PROVIDER = "TensorrtExecutionProvider"
NO_TF32 = "NVIDIA_TF32_OVERRIDE"
"""Of the environment: 0 keeps TensorRT from rounding fp32. There is no provider option for it, and it is read once in
a process, for everything of NVIDIA's in it: so it is asked for, and not set behind anyone's back."""
WHOLE = {"session.disable_cpu_ep_fallback": "1"}
"""No provider but TensorRT is given, and without this the CPU would take the operators that it does not."""
TYPES_OF_THE_GRAPH = {"trt_fp16_enable": "False", "trt_bf16_enable": "False", "trt_int8_enable": "False"}
"""With all three off the network is strongly typed: computed in the types in the graph, as exported and checked. Any
of them on would let TensorRT choose for itself."""


class OrtTensorRtSession(BoundSession):
    """One batch at a time: the provider takes a lock."""

    engine: ClassVar[str] = "ort_tensorrt"
    provider: ClassVar[str] = PROVIDER

    def __init__(self, graph: Path, signature: Signature, options: EngineOptions, folders: Mapping[str, Path]) -> None:
        self._profile = _plans.ranges(signature, options)
        self._folders = folders
        super().__init__(graph, signature, options)

    def _prepare(self, settings: onnxruntime.SessionOptions, graph: Path, options: EngineOptions) -> list[Any]:
        for name, value in WHOLE.items():
            settings.add_session_config_entry(name, value)
        return [(PROVIDER, provider_options(self._profile, self._folders))]

    def _run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        _plans.check(inputs, self._profile)  # beyond its profile the provider would build anew, within a request
        return super()._run(inputs)


def provider_options(profile: Mapping[str, _plans.Range], folders: Mapping[str, Path]) -> dict[str, str]:
    """What ONNX Runtime tells TensorRT: types, shapes, memory, and where (`plans`, `timings`) to keep what it makes."""

    def shapes(kind: str) -> str:
        """As `a:1x2,b:1x3`."""
        return ",".join(f"{name}:{'x'.join(map(str, getattr(one, kind)))}" for name, one in profile.items())

    options = {
        **TYPES_OF_THE_GRAPH,
        "trt_profile_min_shapes": shapes("least"),
        "trt_profile_opt_shapes": shapes("usual"),
        "trt_profile_max_shapes": shapes("most"),
        "trt_max_workspace_size": str(_plans.WORKSPACE_BYTES),
    }
    if "plans" in folders:
        options |= {"trt_engine_cache_enable": "True", "trt_engine_cache_path": str(folders["plans"])}
    if "timings" in folders:
        options |= {"trt_timing_cache_enable": "True", "trt_timing_cache_path": str(folders["timings"])}
    return options


def cache_folders(trt: Any, graph: Path, signature: Signature, options: EngineOptions) -> dict[str, Path]:
    """Folders for the plans of this graph and for the timings of this GPU, made if need be; none if they cannot be.

    ONNX Runtime tells plans apart by a graph's names, not by its weights: so everything that a plan depends on is in
    the name of the folder. Raises BundleError for a graph that cannot be read.
    """
    import onnxruntime

    try:
        plan = _plans.key(trt, graph, _plans.ranges(signature, options))
    except OSError as error:
        raise BundleError(f"{graph} cannot be read: {error}") from error
    facts = {"onnxruntime": onnxruntime.__version__, "tensorrt": trt.__version__}
    base = cache_folder() / "ort_tensorrt"
    folders = {
        "plans": base / digest({**facts, "plan": plan}),
        "timings": base / "-".join([*facts.values(), _cuda.facts()["capability"]]),
    }
    try:
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        log.warning("%s cannot be written; the plan will be made anew at the next start: %s", base, error)
        return {}
    return folders


class OrtTensorRtEngine(Engine):
    """A check of `tensorrt`, with the same kernels: so `auto`, which has that one, does not build every plan twice."""

    electable = False

    @classmethod
    def unavailable(cls) -> str | None:
        if reason := TensorRtEngine.unavailable():  # which imports tensorrt: ONNX Runtime needs its libraries loaded
            return reason
        if importlib.util.find_spec("onnxruntime") is None:
            return "onnxruntime-gpu is not installed; run: pip install 'wander[gpu]'"
        if os.environ.get(NO_TF32) != "0":
            return f"TensorRT rounds fp32 to TF32 within ONNX Runtime; run the command again with {NO_TF32}=0 before it"
        return refused(PROVIDER)

    @classmethod
    def open(cls, graph: Path, signature: Signature, options: EngineOptions) -> Session:
        if reason := cls.unavailable():
            raise MissingDependency(reason)
        import tensorrt as trt

        folders = cache_folders(trt, graph, signature, options)
        return opened(functools.partial(OrtTensorRtSession, folders=folders), graph, signature, options)


plugin = OrtTensorRtEngine
