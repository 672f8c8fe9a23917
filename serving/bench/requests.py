"""The request that is sent to a server again and again: made from what the server says of itself, and tried once.

On `/v1` it is the example of the OpenAPI document, a real item of the model. On KServe v2 it is seeded random numbers
in the dtypes and shapes of the metadata. Or it is a file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import httpx
import numpy as np
from numpy.typing import NDArray

from serving.bench.targets import Wanted
from serving.client._tensors import BF16, BYTES, DTYPES, encode
from serving.wire import JSON_LENGTH_HEADER
from wander.errors import ServiceError, Unreachable, UsageError

JSON_TYPE, BYTES_TYPE = "application/json", "application/octet-stream"
INTEGERS = 10
"""Random integers are below this, so that those which are ids of tokens exist."""
EXCERPT = 300


@dataclass(frozen=True)
class Asked:
    """Where a request goes, and its bytes on the wire. `says` tells a person what it is; the key is not in it."""

    base: str
    host: str
    port: int
    request: bytes
    says: dict[str, str]
    model: str | None
    authorization: Mapping[str, str]


@dataclass(frozen=True)
class Post:
    """What is posted where, and what is known of the model."""

    path: str
    body: bytes
    headers: dict[str, str]
    says: dict[str, str]
    model: str | None = None


def ask(target: str, batch: int, wanted: Wanted) -> Asked:
    """Makes the request for a URL and sends it once.

    Raises UsageError if more has to be named, Unreachable if no server answers, ServiceError if it answers with no 2xx.
    """
    parts = urlsplit(target)
    if parts.scheme != "http" or not parts.hostname:
        raise UsageError(f"{target}: the load generator speaks plain HTTP (http://host:port); measure behind the proxy")
    base = f"http://{parts.netloc}"
    authorization = {"authorization": f"Bearer {wanted.key}"} if wanted.key else {}
    with httpx.Client(base_url=base, headers=authorization, timeout=wanted.timeout_s, trust_env=False) as client:
        try:
            post = _post(client, parts.path.rstrip("/"), batch, wanted)
            answer = client.post(post.path, content=post.body, headers=post.headers)
        except httpx.ConnectError as error:
            raise Unreachable(f"no server answers at {base} ({error})") from error
        except httpx.HTTPError as error:
            raise ServiceError(f"{target} does not answer as HTTP wants it: {error!r}") from error
    if not answer.is_success:
        said = answer.text[:EXCERPT].replace("\n", " ")
        raise ServiceError(f"{base}{post.path} answers {answer.status_code} to what would be measured: {said}")
    says = {**post.says, "request": f"{len(post.body):,} bytes", "answer": f"{len(answer.content):,} bytes"}
    sent = {"host": parts.netloc, **authorization, **post.headers, "content-length": str(len(post.body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    request = f"POST {post.path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + post.body
    return Asked(base, parts.hostname, parts.port or 80, request, says, post.model, authorization)


def _post(client: httpx.Client, path: str, batch: int, wanted: Wanted) -> Post:
    protocol = wanted.protocol
    if protocol == "auto" and path:
        protocol = path.split("/")[1]
    if wanted.body is not None and path not in ("", "/v1", "/v2"):
        return _file(path, batch, wanted)
    if protocol == "auto":
        protocol = "v1" if _get(client, "/v1/models") else "v2"
    if protocol == "v1":
        return _native(client, path, batch, wanted)
    if protocol == "v2":
        return _kserve(client, path, batch, wanted)
    raise UsageError(f"{path} is neither of /v1 nor of /v2; to post a file there: --body FILE")


def _file(path: str, batch: int, wanted: Wanted) -> Post:
    if batch != 1:
        raise UsageError("how many rows --body holds cannot be known; leave --batch out")
    assert wanted.body is not None
    try:
        content = wanted.body.read_bytes()
    except OSError as error:
        raise UsageError(f"--body {wanted.body} cannot be read: {error.strerror}") from error
    kind = JSON_TYPE if content[:1] in (b"{", b"[") else BYTES_TYPE
    return Post(path, content, {"content-type": kind, **wanted.headers}, {"how": path, "input": wanted.body.name})


def _native(client: httpx.Client, path: str, batch: int, wanted: Wanted) -> Post:
    """The model's own example, `batch` times."""
    listed = (_get(client, "/v1/models") or {}).get("models", [])
    document = _get(client, "/openapi.json") or {}
    examples: dict[str, tuple[str, Any]] = {}
    for route, methods in document.get("paths", {}).items():
        content = methods.get("post", {}).get("requestBody", {}).get("content", {}).get(JSON_TYPE, {})
        for name, example in content.get("examples", {}).items():
            if path in ("", "/v1", route):
                examples[name] = (route, example["value"])
    name = _only(wanted.model, list(examples), f"{client.base_url} offers {path or '/v1'}")
    route, item = examples[name]
    model: dict[str, Any] = next((one for one in listed if one["name"] == name), {})
    content = {"items": [item] * batch} if batch > 1 else item
    says = {
        "how": f"POST {route}",
        "model": f"{name} {model.get('version', '')}".strip(),
        "precision": str(model.get("precision", "unknown")),
        "engine": _engine(model.get("engine", {})),
        "input": "the example of the OpenAPI document" + (f", {batch} times as items" if batch > 1 else ""),
    }
    post = Post(f"{route}?{urlencode({'model': name})}", _json(content), {"content-type": JSON_TYPE}, says, name)
    if wanted.body is None:
        return post
    sent = _file(post.path, batch, wanted)
    return Post(post.path, sent.body, sent.headers, {**says, "input": sent.says["input"]}, name)


def _kserve(client: httpx.Client, path: str, batch: int, wanted: Wanted) -> Post:
    """Random tensors as the metadata declare them."""
    steps = path.removesuffix("/infer").split("/")
    named = steps[3] if len(steps) > 3 and steps[2] == "models" else wanted.model
    version = f"/versions/{steps[5]}" if len(steps) > 5 and steps[4] == "versions" else ""
    if named is None:
        index = client.post("/v2/repository/index", json={})
        found = [entry["name"] for entry in index.json()] if index.is_success else []
        named = _only(None, sorted(set(found)), f"{client.base_url} serves on /v2")
    where = f"/v2/models/{quote(named, safe='')}{version}"
    metadata = _get(client, where)
    if metadata is None:
        raise UsageError(f"{client.base_url} has no model {named!r} on /v2; name another with --model")
    says = {"how": f"POST {where}/infer", "model": named, "engine": str(metadata.get("platform", "unknown"))}
    listed = {one["name"]: one for one in (_get(client, "/v1/models") or {}).get("models", [])}
    own = next((name for name in listed if named == name or named.startswith(f"{name}-")), None)
    if own is not None:
        says |= {"precision": str(listed[own]["precision"]), "engine": _engine(listed[own]["engine"])}
    if wanted.body is not None:
        sent = _file(f"{where}/infer", batch, wanted)
        return Post(sent.path, sent.body, sent.headers, {**says, **sent.says}, own or named)
    random = np.random.default_rng(wanted.seed)
    arrays = {spec["name"]: _random(spec, batch, wanted.length, random) for spec in metadata["inputs"]}
    body, length = encode(arrays, binary=wanted.tensors == "binary")
    headers = {"content-type": JSON_TYPE if length is None else BYTES_TYPE}
    if length is not None:
        headers[JSON_LENGTH_HEADER] = str(length)
    shapes = ", ".join(f"{name} {'x'.join(map(str, array.shape))}" for name, array in arrays.items())
    says["input"] = f"random (seed {wanted.seed}), {wanted.tensors} tensors: {shapes}"
    return Post(f"{where}/infer", body, headers, says, own or named)


def _random(spec: Mapping[str, Any], batch: int, length: int, random: np.random.Generator) -> NDArray[Any]:
    """One tensor: the first free dimension is the batch, others are `length`."""
    declared, datatype = [int(size) for size in spec["shape"]], spec["datatype"]
    if batch > 1 and declared[:1] != [-1]:
        raise UsageError(f"{spec['name']} has the fixed shape {declared}: this model takes no batches of {batch}")
    first = [batch] if declared[:1] == [-1] else declared[:1]
    shape = [*first, *(length if size < 0 else size for size in declared[1:])]
    if datatype == BYTES:
        words = [random.bytes(4).hex().encode() for _ in range(int(np.prod(shape)))]
        return np.array(words, object).reshape(shape)
    if datatype == BF16:
        raise UsageError(f"{spec['name']} is BF16, for which there are no random numbers here; use --body")
    dtype = DTYPES[datatype]
    if dtype.kind in "iub":
        return random.integers(0, 2 if dtype.kind == "b" else INTEGERS, shape).astype(dtype)
    return random.standard_normal(shape).astype(dtype)


def _only(named: str | None, there: list[str], where: str) -> str:
    """The model that is meant. Raises UsageError."""
    if named is not None and named in there:
        return named
    names = ", ".join(there)
    if named is not None:
        raise UsageError(f"{where} no model {named!r}; there are: {names or 'none'}")
    if len(there) == 1:
        return there[0]
    raise UsageError(f"{where} {f'several models; name one with --model: {names}' if there else 'no model'}")


def _get(client: httpx.Client, path: str) -> dict[str, Any] | None:
    """A JSON object; None if there is none at that place. Raises ServiceError if it is refused."""
    answer = client.get(path)
    if answer.status_code in (401, 403):
        raise ServiceError(f"{client.base_url}{path} wants a key: --key or the variable WANDER_KEY")
    try:
        content = answer.json() if answer.is_success else None
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _engine(described: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in described.items()) or "unknown"


def _json(content: object) -> bytes:
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
