"""What the Open Inference Protocol (KServe v2) says over HTTP and over gRPC alike. Knows neither.

A model of the protocol is one graph of ours, under the name by which the repository knows it. The repository of the
protocol holds bundles: they are loaded and unloaded whole.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serving.model import Model
from serving.protocols._tensors import NAMES
from serving.repository import Repository
from serving.statistics import Statistics, Total
from wander import __version__
from wander.errors import InputError, NotFound, ServiceError, WanderError
from wander.signature import TensorSpec

SERVER = {
    "name": "wander",
    "version": __version__,
    "extensions": ["binary_tensor_data", "model_configuration", "model_repository", "schedule_policy", "statistics"],
}
BULK = 2
"""From this `priority` on, rows wait for those of others; 0 says nothing, and 1 is the highest."""


@dataclass(frozen=True)
class Options:
    """What the parameters of a request ask of the service. `deadline` is on the clock of `time.monotonic()`."""

    adapter: str | None = None
    deadline: float | None = None
    bulk: bool = False


NOTHING = Options()


def options_of(parameters: Mapping[str, Any], deadline: float | None = None) -> Options:
    """Raises InputError for parameters that are known and of the wrong kind; others mean nothing here.

    Args:
        deadline: that the transport knows of; the earlier one counts.
    """
    if not parameters:
        return NOTHING if deadline is None else Options(deadline=deadline)
    adapter = parameters.get("adapter")
    if adapter is not None and type(adapter) is not str:
        raise InputError("adapter must be a string", "parameters.adapter")
    if timeout := _whole(parameters, "timeout"):
        until = time.monotonic() + timeout / 1e6
        deadline = until if deadline is None else min(until, deadline)
    return Options(adapter, deadline, _whole(parameters, "priority") >= BULK)


def _whole(parameters: Mapping[str, Any], name: str) -> int:
    """A parameter that is a whole number, as a number or as a string of one; 0 if it is absent."""
    value = parameters.get(name, 0)
    if type(value) is str and value.isascii() and value.isdecimal() and len(value) < 20:
        return int(value)
    if type(value) is not int or value < 0:
        raise InputError(f"{name} must be a whole number that is not negative", f"parameters.{name}")
    return value


def ready(repository: Repository, name: str, version: str | None) -> dict[str, Any]:
    """Raises NotFound and NotReady, as everything that names a model."""
    repository.graph(name, version)
    return {"name": name, "ready": True}


def metadata(repository: Repository, name: str, version: str | None) -> dict[str, Any]:
    """The tensors of a model, and the versions of it that are loaded."""
    model, graph = repository.graph(name, version)
    signature = model.bundle.manifest.graphs[graph].signature
    return {
        "name": name,
        "versions": _versions(repository, model),
        "platform": _platform(model),
        "inputs": [_tensor(spec) for spec in signature.inputs],
        "outputs": [_tensor(spec) for spec in signature.outputs],
    }


def config(repository: Repository, name: str, version: str | None) -> dict[str, Any]:
    """What the model configuration says that clients ask it for: the batch size and the tensors of one item."""
    model, graph = repository.graph(name, version)
    described = model.bundle.manifest.graphs[graph]
    signature = described.signature
    return {
        "name": name,
        "platform": _platform(model),
        "max_batch_size": described.max_batch_size,
        "input": [_tensor_config(spec) for spec in signature.inputs],
        "output": [_tensor_config(spec) for spec in signature.outputs],
    }


def statistics(repository: Repository, name: str | None = None, version: str | None = None) -> dict[str, Any]:
    """Of one version, of every version that is loaded of one name, or of everything."""
    models = repository.models
    if name is not None:
        asked, _ = repository.graph(name, version)
        models = [m for m in models if m.name == asked.name and (version is None or m is asked)]
    return {
        "model_stats": [
            _counted(known_as, model.version, model.statistics[graph])
            for model in models
            for known_as, graph in model.graph_names().items()
            if name in (None, known_as)
        ]
    }


def index(repository: Repository, ready: bool = False) -> list[dict[str, str]]:
    """Every version there is of every bundle, or those that can be asked."""
    return [vars(status).copy() for status in repository.index() if status.state == "READY" or not ready]


async def load(repository: Repository, name: str, parameters: Mapping[str, Any]) -> None:
    """Serves a bundle: the latest version, or the parameter `version`. Raises InputError if it cannot be served."""
    for given in parameters:
        if given == "config" or given.startswith("file:"):
            raise InputError("a bundle is loaded from the folder of models, as it is there", f"parameters.{given}")
    version = parameters.get("version")
    if version is not None and type(version) not in (str, int):
        raise InputError("version must be a string", "parameters.version")
    try:
        await asyncio.to_thread(repository.load_model, name, None if version is None else str(version))
    except NotFound as error:
        raise _of_bundle(repository, name, error) from error
    except ServiceError:
        raise
    except WanderError as error:
        raise InputError(f"{name} was not loaded: {error}") from error


async def unload(repository: Repository, name: str) -> None:
    """Serves a bundle no more. Raises NotFound."""
    try:
        await asyncio.to_thread(repository.unload_model, name)
    except NotFound as error:
        raise _of_bundle(repository, name, error) from error


def _of_bundle(repository: Repository, name: str, error: NotFound) -> NotFound:
    """The error, or one that names the bundle if a graph was named."""
    try:
        model, _ = repository.graph(name)
    except ServiceError:
        return error
    return error if model.name == name else NotFound(f"{name!r} is a graph of the model {model.name!r}; name that one")


def _versions(repository: Repository, model: Model) -> list[str]:
    served = repository.served(model.name)
    return [model.version] if served is None else list(served.versions)


def _platform(model: Model) -> str:
    return f"{model.engine['engine']}_onnx"


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": NAMES[spec.dtype], "shape": _sizes(spec.dims)}


def _tensor_config(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "data_type": f"TYPE_{NAMES[spec.dtype]}", "dims": _sizes(spec.item_dims)}


def _sizes(dims: tuple[int | str, ...]) -> list[int]:
    return [size if isinstance(size, int) else -1 for size in dims]


def _counted(name: str, version: str, counted: Statistics) -> dict[str, Any]:
    """`compute_input` and `compute_output` are part of `compute_infer`: they are not measured by themselves."""
    batches = counted.by_rows()
    return {
        "name": name,
        "version": version,
        "last_inference": round(counted.last * 1000),
        "inference_count": sum(rows * total.count for rows, total in batches),
        "execution_count": sum(total.count for _, total in batches),
        "inference_stats": {
            "success": _total(counted.success),
            "fail": _total(counted.fail),
            "queue": _total(counted.queue),
            "compute_input": _total(Total()),
            "compute_infer": _total(counted.infer),
            "compute_output": _total(Total()),
        },
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": _total(Total()),
                "compute_infer": _total(total),
                "compute_output": _total(Total()),
            }
            for rows, total in batches
        ],
    }


def _total(total: Total) -> dict[str, int]:
    return {"count": total.count, "ns": total.ns}
