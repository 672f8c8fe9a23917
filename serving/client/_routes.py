"""The routes of a server as functions: what is asked becomes a `Call`, which also reads the answer. Sends nothing.

Every function takes `timeout_ms`, within which all tries must be done (the server is told what is left), and
`request_id`, which is sent as `X-Request-Id`. Those of a model take `model`, `version` and `adapter`; without them the
server takes the only model of the task, or that of the index.

All raise the errors of `wander.errors.ServiceError`: what the server refused; Unreachable if there is none;
DeadlineExceeded if time ran out; and InputError, before anything is sent, for what cannot be sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict, Unpack
from urllib.parse import quote

import httpx
from numpy.typing import NDArray

from serving.client import _bodies as bodies
from serving.client import _tensors as tensors
from serving.client._answers import json_list, json_object, results
from serving.client._bodies import Item
from serving.client._tries import Call
from serving.wire import JSON_LENGTH_HEADER
from wander.errors import ServiceError
from wander.signature import Arrays

Json = dict[str, Any]
Results = list[Json | ServiceError]
"""A result or an error for every item, in order."""


class Options(TypedDict, total=False):
    timeout_ms: float | None
    request_id: str | None


class Address(Options, total=False):
    model: str | None
    version: str | None
    adapter: str | None


ADDRESS = ("model", "version", "adapter")
"""What of an `Address` goes into the query."""


# Inference by task


def predict(task: str, item: Item, *, operation: str = "", **address: Unpack[Address]) -> Call[Json]:
    """`POST /v1/<task>[/<operation>]`: the answer for one item.

    Args:
        item: fields by name. A file is bytes or a Path; features are arrays (length, width) or nested lists.
    """
    return _asked("POST", _task(task, operation), json_object, bodies.one(item, arrays=True), address)


def predict_many(task: str, items: Sequence[Item], *, operation: str = "", **address: Unpack[Address]) -> Call[Results]:
    """`POST /v1/<task>[/<operation>]` in one request. An item that fails is an error in its place, and not retried."""
    return _asked("POST", _task(task, operation), results, bodies.many(items), address)


def models(**options: Unpack[Options]) -> Call[list[Json]]:
    """`GET /v1/models`: every model that can be asked, with its signature and how it was verified."""
    return Call("GET", "/v1/models", _member("models"), **options)


def model(name: str, **options: Unpack[Options]) -> Call[Json]:
    """`GET /v1/models/<name>`"""
    return Call("GET", _path("v1", "models", name), json_object, **options)


def document(**options: Unpack[Options]) -> Call[Json]:
    """`GET /openapi.json`: every route, with schema and an example of the items of the models that are loaded."""
    return Call("GET", "/openapi.json", lambda response: json_object(response, "paths"), **options)


# Operations


def live(**options: Unpack[Options]) -> Call[bool]:
    """`GET /livez`: True if the process answers; raises Unreachable if none does."""
    return Call("GET", "/livez", _is_success, **options)


def ready(**options: Unpack[Options]) -> Call[bool]:
    """`GET /readyz`: whether every model is loaded and the server is not draining. Does not wait for it."""
    return Call("GET", "/readyz", _is_success, accepts=(503,), **options)


def metrics(**options: Unpack[Options]) -> Call[str]:
    """`GET /metrics`: the text that Prometheus reads."""
    return Call("GET", "/metrics", lambda response: response.text, **options)


# Retrieval


def indexes(**options: Unpack[Options]) -> Call[list[Json]]:
    """Every index; one that cannot be read has `error` in place of its size."""
    return Call("GET", "/v1/retrieval", _member("indexes"), **options)


def get_index(index: str, **options: Unpack[Options]) -> Call[Json]:
    """One index: its size, the model of its vectors, how it is searched, and `rebuild`: how far one is, or None."""
    return Call("GET", _index(index), json_object, **options)


def rebuild_index(index: str, **options: Unpack[Options]) -> Call[Json]:
    """Starts a rebuild, unless one goes on; answers at once, as `index` does."""
    return Call("POST", _index(index, "rebuild"), json_object, **options)


def delete_index(index: str, **options: Unpack[Options]) -> Call[Json]:
    """Removes an index with all its items. It is sent once: of a lost answer nobody knows whether it was done."""
    return Call("DELETE", _index(index), json_object, again=False, **options)


def items(index: str, *, limit: int = 100, after: str = "", **options: Unpack[Options]) -> Call[Json]:
    """A page of an index by id: `items`, at most `limit` of them after the id `after`, and `next`, None at the end."""
    params = {"limit": str(limit), "after": after}
    return Call("GET", _index(index, "items"), lambda r: json_object(r, "items", "next"), params, **options)


def get_item(index: str, id: str, **options: Unpack[Options]) -> Call[Json]:
    """One item: `id`, `modality`, `metadata`."""
    return Call("GET", _index(index, "items", id), json_object, **options)


def put_item(
    index: str, id: str, item: Item, *, metadata: Mapping[str, Any] | None = None, **address: Unpack[Address]
) -> Call[Json]:
    """Adds or replaces an item, which the model embeds; the first makes the index."""
    body = bodies.one({**item, **({} if metadata is None else {"metadata": metadata})}, arrays=False)
    return _asked("PUT", _index(index, "items", id), json_object, body, address)


def put_items(index: str, items: Iterable[Item | bytes], **address: Unpack[Address]) -> Call[Results]:
    """Adds or replaces many in one request.

    Args:
        items: fields with an `id`, and `metadata` if there is any; or lines of JSON as they are.
    """
    return _asked("PUT", _index(index, "items"), results, bodies.lines(items), address)


def put_arrays(index: str, arrays: Mapping[str, NDArray[Any]], **address: Unpack[Address]) -> Call[Results]:
    """Adds or replaces many in one request, as an .npz.

    Args:
        arrays: `id` (N), and `metadata` (N) of JSON if there is any, both of text; and fields of the items, a row an
            item, such as `text` (N) or `video.experts.rgb.features` (N, T, D). NaN, or an empty text, fills up what
            an item does not have.
    """
    return _asked("PUT", _index(index, "items"), results, bodies.npz(arrays), address)


def delete_item(index: str, id: str, **options: Unpack[Options]) -> Call[bool]:
    """Removes an item. Returns whether it was there; it is sent once, so that this is true."""
    return Call("DELETE", _index(index, "items", id), _member("deleted"), again=False, **options)


def search(
    index: str,
    item: Item,
    *,
    top_k: int = 10,
    filter: Mapping[str, Any] | None = None,
    modality: str | None = None,
    **address: Unpack[Address],
) -> Call[Json]:
    """`hits`, best first, with `id`, `score`, `modality` and `metadata` each.

    Args:
        item: what is looked for, as for `put_item`; or `{"id": ...}`, an item of the index.
        filter: fields of the metadata that must be equal.
        modality: of the items that are searched.
    """
    more = {"top_k": top_k, "filter": filter, "modality": modality}
    body = bodies.one({**item, **{name: value for name, value in more.items() if value is not None}}, arrays=False)
    return _asked("POST", _index(index, "search"), lambda r: json_object(r, "hits"), body, address)


# KServe v2


def infer(
    model: str,
    inputs: Arrays,
    *,
    version: str | None = None,
    outputs: Sequence[str] | None = None,
    binary: bool = True,
    parameters: Mapping[str, Any] | None = None,
    **options: Unpack[Options],
) -> Call[dict[str, NDArray[Any]]]:
    """`POST /v2/models/<model>/infer`: tensors in, tensors out, each (batch, ...).

    Args:
        outputs: which are wanted; None for all.
        binary: whether tensors travel as they lie in memory; otherwise as JSON, which holds no NaN.
        parameters: of the request, such as `{"adapter": "wander"}`.
    """
    content, length = tensors.encode(inputs, outputs, binary, parameters, options.get("request_id"))
    headers = {"content-type": bodies.JSON}
    if length is not None:
        headers = {"content-type": "application/octet-stream", JSON_LENGTH_HEADER: str(length)}
    body = {"content": content, "headers": headers}
    return Call("POST", _v2_model(model, version, "infer"), _tensors_of, body=body, **options)


def server_metadata(**options: Unpack[Options]) -> Call[Json]:
    """`GET /v2`: name, version and extensions of the server."""
    return Call("GET", "/v2", json_object, **options)


def model_metadata(model: str, *, version: str | None = None, **options: Unpack[Options]) -> Call[Json]:
    """`GET /v2/models/<model>`: versions, and name, datatype and shape of inputs and outputs."""
    return Call("GET", _v2_model(model, version), json_object, **options)


def model_ready(model: str, *, version: str | None = None, **options: Unpack[Options]) -> Call[bool]:
    """`GET /v2/models/<model>/ready`: whether it can be asked. Raises NotFound where the server knows no such model."""
    return Call("GET", _v2_model(model, version, "ready"), _is_success, accepts=(400, 503), **options)


def repository(*, ready: bool = False, **options: Unpack[Options]) -> Call[list[Json]]:
    """`POST /v2/repository/index`: name, version and state of every bundle there is, or of those that can be asked."""
    return Call("POST", "/v2/repository/index", json_list, body=bodies.json_body({"ready": ready}), **options)


def load(model: str, *, version: str | None = None, **options: Unpack[Options]) -> Call[None]:
    """`POST /v2/repository/models/<model>/load`: returns when the model serves. Give it the time that it needs."""
    body = bodies.json_body({"parameters": {} if version is None else {"version": version}})
    return Call("POST", _control(model, "load"), _nothing, body=body, again=False, **options)


def unload(model: str, **options: Unpack[Options]) -> Call[None]:
    """`POST /v2/repository/models/<model>/unload`"""
    return Call("POST", _control(model, "unload"), _nothing, body=bodies.json_body({}), again=False, **options)


def statistics(model: str | None = None, *, version: str | None = None, **options: Unpack[Options]) -> Call[list[Json]]:
    """`GET /v2/models[/<model>]/stats`: counts and durations of every model, or of one."""
    path = "/v2/models/stats" if model is None else _v2_model(model, version, "stats")
    return Call("GET", path, _member("model_stats"), **options)


# Of requests


def _asked(method: str, path: str, decode: Any, body: bodies.Body, address: Mapping[str, object]) -> Call[Any]:
    """A call that names its model in the query."""
    named = {name: str(value) for name, value in address.items() if name in ADDRESS and value is not None}
    options: dict[str, Any] = {name: value for name, value in address.items() if name not in ADDRESS}
    return Call(method, path, decode, named, body, **options)


def _path(*parts: str) -> str:
    return "".join(f"/{_quoted(part)}" for part in parts)


def _quoted(part: str) -> str:
    """One part of a path, whatever it holds. `.` and `..` are quoted too: they would change which route is asked."""
    return part.replace(".", "%2E") if part in (".", "..") else quote(part, safe="")


def _task(task: str, operation: str) -> str:
    return _path("v1", task.replace("_", "-"), *filter(None, (operation,)))


def _index(index: str, *parts: str) -> str:
    return _path("v1", "retrieval", index, *parts)


def _v2_model(model: str, version: str | None, *parts: str) -> str:
    return _path("v2", "models", model, *(() if version is None else ("versions", version)), *parts)


def _control(model: str, action: str) -> str:
    return _path("v2", "repository", "models", model, action)


# Of answers


def _member(name: str) -> Any:
    return lambda response: json_object(response, name)[name]


def _is_success(response: httpx.Response) -> bool:
    return response.is_success


def _nothing(response: httpx.Response) -> None:
    return


def _tensors_of(response: httpx.Response) -> dict[str, NDArray[Any]]:
    length = response.headers.get(JSON_LENGTH_HEADER)
    if length is not None and not (length.isascii() and length.isdecimal()):
        raise ServiceError(f"{response.url} answers with {JSON_LENGTH_HEADER} {length!r}, which is no number")
    return tensors.decode(response.content, None if length is None else int(length))
