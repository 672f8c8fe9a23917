"""TensorRT plans: built from a graph on the machine that runs them, and kept under everything that they depend on.

A plan is a cache, not an artifact: one from another GPU, driver or TensorRT has another key, and is not looked at.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wander.engines import _cuda
from wander.engines._cache import cache_folder, digest, graph_sha256
from wander.engines.base import EngineOptions
from wander.errors import BundleError, EngineError, InputError
from wander.files import staging
from wander.signature import BATCH, Arrays, Signature, TensorSpec

log = logging.getLogger("wander.engines.tensorrt")

WORKSPACE_BYTES = 4 << 30
"""The most scratch memory that a kernel may ask for; TensorRT takes what it uses."""
USUAL_BATCH = 8
"""The batch, and `USUAL_LENGTH` the length, for which kernels are chosen; others run on the same ones."""
USUAL_LENGTH = 32


@dataclass(frozen=True)
class Range:
    """Shapes of one input: the smallest, the one to be fast for, and the largest."""

    least: tuple[int, ...]
    usual: tuple[int, ...]
    most: tuple[int, ...]


def ranges(signature: Signature, options: EngineOptions) -> dict[str, Range]:
    """The optimisation profile that a signature asks for."""

    def shape(spec: TensorSpec, batch: int, length: int) -> tuple[int, ...]:
        return tuple(
            size if isinstance(size, int) else (batch if size == BATCH else min(length, options.max_length))
            for size in spec.dims
        )

    most = options.max_batch_size
    return {
        spec.name: Range(
            shape(spec, 1, 1),
            shape(spec, min(USUAL_BATCH, most), USUAL_LENGTH),
            shape(spec, most, options.max_length),
        )
        for spec in signature.inputs
    }


def check(inputs: Arrays, profile: Mapping[str, Range]) -> None:
    """Raises InputError, naming the tensor, for a shape beyond the profile."""
    for name, array in inputs.items():
        most = profile[name].most
        if any(size > limit for size, limit in zip(array.shape, most, strict=True)):
            raise InputError(f"{name} has shape {array.shape}; the plan takes at most {most}", name)


def key(trt: Any, graph: Path, profile: dict[str, Range]) -> str:
    """What a plan depends on: GPU, driver, TensorRT's version, graph and profile."""
    shapes = {name: asdict(one) for name, one in profile.items()}
    return digest({**_cuda.facts(), "tensorrt": trt.__version__, "graph": graph_sha256(graph), "profile": shapes})


class Said:
    """TensorRT's complaints, to be quoted in an error: it returns nothing, and logs why."""

    def __init__(self, trt: Any) -> None:
        said: list[str] = []

        class Logger(trt.ILogger):  # type: ignore[misc,name-defined,unused-ignore]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                    said.append(message.strip())
                elif severity == trt.ILogger.WARNING:
                    log.debug("%s", message)

        self._said = said
        self.logger = Logger()

    def __str__(self) -> str:
        return "; ".join(self._said[-3:]) or "it gave no reason"


def open_plan(trt: Any, graph: Path, signature: Signature, options: EngineOptions) -> Any:
    """The engine (`ICudaEngine`) of a graph: from its plan if there is one that can be read, else built now.

    Raises BundleError for a graph that TensorRT cannot read or build, EngineError if its own new plan is refused.
    """
    said = Said(trt)
    profile = ranges(signature, options)
    try:
        name = key(trt, graph, profile)
    except OSError as error:
        raise BundleError(f"{graph} cannot be read: {error}") from error
    folder = cache_folder() / "tensorrt"
    path = folder / f"{name}.plan"
    runtime = trt.Runtime(said.logger)
    if path.is_file():
        if (engine := runtime.deserialize_cuda_engine(path.read_bytes())) is not None:
            return engine
        log.warning("%s is damaged and is built anew: %s", path, said)
    log.info("TensorRT builds a plan for %s; this takes minutes, once on this machine", graph)
    plan = _build(trt, said, graph, profile, folder / f"{trt.__version__}-{_cuda.facts()['capability']}.timing")
    _write(path, plan)
    if (engine := runtime.deserialize_cuda_engine(plan)) is None:
        raise EngineError(f"TensorRT refuses the plan that it just built for {graph}: {said}")
    return engine


def _build(trt: Any, said: Said, graph: Path, profile: dict[str, Range], timing: Path) -> bytes:
    """The types in the graph are those that are computed in (a strongly typed network), so that precision is decided
    once, when the graph is exported and checked; TF32, which would round fp32, is off."""
    builder = trt.Builder(said.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, said.logger)
    if not parser.parse_from_file(str(graph)):
        errors = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise BundleError(f"TensorRT cannot read {graph}: {errors or said}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    shapes = builder.create_optimization_profile()
    for name, one in profile.items():
        shapes.set_shape(name, one.least, one.usual, one.most)
    config.add_optimization_profile(shapes)
    cache = config.create_timing_cache(timing.read_bytes() if timing.is_file() else b"")
    config.set_timing_cache(cache, False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BundleError(f"TensorRT cannot build {graph}: {said}")
    _write(timing, bytes(config.get_timing_cache().serialize()))
    return bytes(plan)


def _write(path: Path, content: bytes) -> None:
    """In place of what may be there. A folder that cannot be written costs the next start its time, not this one."""
    try:
        with staging(path) as folder:
            (folder / path.name).write_bytes(content)
            (folder / path.name).replace(path)
    except OSError as error:
        log.warning("%s cannot be written, and will be made anew at the next start: %s", path, error)
