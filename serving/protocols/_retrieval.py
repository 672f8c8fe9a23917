"""Requests to an index: what they hold beside the item that is embedded, and what the document says of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import orjson
from fastapi import Request

from serving.index import Found, Index, Origin, Stats
from serving.index.base import Scalar
from serving.model import Model
from serving.parsing import parse_json
from serving.protocols._arrays import read_items
from serving.protocols._bodies import Body, decode_files, read_body, read_files
from serving.settings import Settings
from wander.bundle import EXAMPLE, PARITY
from wander.errors import InputError, MalformedBody, TooLarge, UnsupportedMedia

NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl")
NPZ = "application/x-npz"
MAX_ID = 256
MAX_METADATA = 64 << 10
"""Bytes of an item's metadata as JSON."""
MAX_HITS = 1000
"""Most hits of one search, and most items of one page."""


@dataclass(frozen=True)
class Record:
    """An item that is put: `content` is what its vector is made of."""

    id: str
    content: dict[str, Any]
    metadata: dict[str, Any]

    @classmethod
    def of(cls, id: object, content: dict[str, Any]) -> Record:
        """Takes what is not to be embedded out of `content`. Raises InputError and TooLarge."""
        if not isinstance(id, str) or not 1 <= len(id) <= MAX_ID or any(ord(c) < 32 or ord(c) == 127 for c in id):
            raise InputError(f"an id must be 1 to {MAX_ID} characters, none of them a control character", "id")
        metadata = content.pop("metadata", None)
        if metadata is None:
            metadata = {}
        if not isinstance(metadata, dict):
            raise InputError("metadata must be a JSON object", "metadata")
        try:
            size = len(orjson.dumps([[metadata]]))  # as deep as it stands in the answers to come
        except orjson.JSONEncodeError as error:
            raise InputError("metadata is nested too deeply", "metadata") from error
        if size > MAX_METADATA:
            raise TooLarge(f"metadata has {size} bytes as JSON, more than {MAX_METADATA}", "metadata")
        return cls(id, content, metadata)


@dataclass(frozen=True)
class Search:
    """What is looked for: an item that is here, by its `id`, or what `content` holds."""

    content: dict[str, Any]
    id: str | None = None
    top_k: int = 10
    filter: dict[str, Scalar] = field(default_factory=dict)
    modality: str | None = None

    @classmethod
    def of(cls, content: dict[str, Any]) -> Search:
        """Takes what is not to be embedded out of `content`. Raises InputError."""
        given = {name: content.pop(name) for name in ("id", "top_k", "filter", "modality") if name in content}
        given = {name: value for name, value in given.items() if value is not None}
        for name in ("id", "modality"):
            if not isinstance(given.get(name, ""), str):
                raise InputError(f"{name} must be a string", name)
        if "id" in given and content:
            raise InputError(f"{next(iter(content))} cannot stand beside id", next(iter(content)))
        if "top_k" in given:
            whole_number(given["top_k"], "top_k")
        filter = given.get("filter", {})
        if not isinstance(filter, dict):
            raise InputError("filter must be a JSON object", "filter")
        for name, value in filter.items():
            if isinstance(value, dict | list):
                raise InputError("fields are compared with a string, number, boolean or null", f"filter.{name}")
        return cls(content, **given)


def whole_number(value: object, name: str) -> int:
    """The number of hits or items that are asked for. Raises InputError."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_HITS:
        raise InputError(f"{name} must be a whole number from 1 to {MAX_HITS}", name)
    return value


def page_of(request: Request) -> tuple[int, str]:
    """`limit` and `after` of a list. Raises InputError."""
    text = request.query_params.get("limit", "100")
    limit = whole_number(int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None, "limit")
    return limit, request.query_params.get("after", "")


async def read_one(request: Request, uploads: tuple[str, ...], settings: Settings) -> tuple[dict[str, Any], Body]:
    """The one item of a request, with what stands beside it, and the body it came in. Raises as `read_body` does."""
    body = await read_body(request, uploads, settings)
    if isinstance(body.content, list):
        raise InputError("one item is read here; several are put as NDJSON", "items")
    content = dict(body.content)
    if media_type(request) == "multipart/form-data":
        for name in ("metadata", "filter", "top_k"):
            if isinstance(text := content.get(name), str):
                try:
                    content[name] = parse_json(text.encode(), name)
                except MalformedBody as error:
                    raise InputError(str(error), name) from error
    return content, body


async def read_many(request: Request, uploads: tuple[str, ...], settings: Settings) -> list[Record | InputError]:
    """The items of a bulk request, in order; one that is none is the error that it deserves.

    Raises UnsupportedMedia, MalformedBody for a body that cannot be read as a whole, and TooLarge.
    """
    media = media_type(request)
    if media in ("multipart/form-data", NPZ):
        items = read_items(await _npz_of(request, media), settings.max_body_bytes, settings.max_items)
        return [_record(item, uploads) for item in items]
    if media not in NDJSON:
        raise UnsupportedMedia(
            f"{media or 'no media type'} is not read here; send {NDJSON[0]}, or an .npz as {NPZ} or in a form"
        )
    lines = [line for line in (await request.body()).split(b"\n") if line.strip()]
    if not lines:
        raise MalformedBody("the body has no lines; write a JSON object on each")
    if len(lines) > settings.max_items:
        raise TooLarge(f"{len(lines)} items are more than the {settings.max_items} of one request", "items")
    return [_record(line, uploads) for line in lines]


async def _npz_of(request: Request, media: str) -> bytes:
    if media == NPZ:
        return await request.body()
    files = await read_files(request, 1)
    if len(files) != 1:
        raise InputError("a multipart body needs one .npz file, and nothing else", "file")
    return files[0]


def _record(given: bytes | dict[str, Any] | InputError, uploads: tuple[str, ...]) -> Record | InputError:
    """Of a line of JSON, or an item that was read."""
    if isinstance(given, InputError):
        return given
    try:
        content = parse_json(given, "the line") if isinstance(given, bytes) else given
        if not isinstance(content, dict):
            raise InputError("an item must be a JSON object")
        record = Record.of(content.pop("id", None), content)
        decode_files(Body(content), uploads)
    except InputError as error:
        return error
    return record


def media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def origin_of(model: Model) -> Origin:
    """What makes a model's vectors: its graphs, the files of its preprocessing, and how it is set."""
    manifest = model.bundle.manifest
    beside = (PARITY, EXAMPLE)
    files = {n: s for n, s in manifest.files.items() if n not in beside and not n.startswith("samples/")}
    made_of = orjson.dumps([files, manifest.preprocessing], option=orjson.OPT_SORT_KEYS)
    return Origin(model.name, model.version, model.adapter, hashlib.sha256(made_of).hexdigest())


def described(name: str, index: Index) -> dict[str, Any]:
    """What there is to know of an index."""
    stats = index.stats()
    sizes = {"items": stats.items, "deleted_rows": stats.deleted, "dimension": index.dimension}
    rebuild = None if stats.rebuild is None else vars(stats.rebuild)
    return {"index": name, **sizes, **mode_of(stats), "rebuild": rebuild, **vars(index.origin)}


def mode_of(found: Found | Stats) -> dict[str, Any]:
    """How it is searched; for an approximate search its recall, and of what that was measured."""
    recall = found.recall
    return {
        "mode": found.mode,
        "recall": None if recall is None else recall.value,
        "recall_of": None if recall is None else recall.of,
    }


# Of the document

_ITEM = {
    "image": {"type": "string", "description": "an image file in base64"},
    "text": {"type": "string"},
    "video": {
        "type": ["object", "string"],
        "description": "features of its experts, or a video file in base64, for a model of text and video",
    },
    "model": {"type": "string"},
}
_METADATA = {"metadata": {"type": "object"}}
_SEARCH = {
    "id": {"type": "string", "description": "an item of the index, in place of an image or text"},
    "top_k": {"type": "integer", "minimum": 1, "maximum": MAX_HITS, "default": 10},
    "filter": {"type": "object", "description": "fields that the metadata of an item must have"},
    "modality": {"type": "string", "description": "of the items that are searched"},
}


def one_body(search: bool) -> dict[str, Any]:
    """The request body of a search, or of an item that is put."""
    more: dict[str, Any] = _SEARCH if search else _METADATA
    files = {name: {"type": "string", "format": "binary"} for name in ("image", "video")}
    content = {
        "application/json": {"schema": {"type": "object", "properties": {**_ITEM, **more}}},
        "multipart/form-data": {"schema": {"type": "object", "properties": {**_ITEM, **more, **files}}},
    }
    return {"requestBody": {"required": True, "content": content}}


def many_body() -> dict[str, Any]:
    """The request body of items that are put together."""
    text = {"type": "string", "description": "a JSON object on each line: id, image, text or video, metadata"}
    arrays = (
        "an .npz with a row an item: id (N) and metadata (N, each a JSON object) as text; fields such as text (N) or "
        "video.experts.rgb.features (N, T, D). NaN, or an empty text, fills up what an item does not have"
    )
    file = {"type": "string", "format": "binary", "description": arrays}
    form = {"type": "object", "properties": {"file": file}, "required": ["file"]}
    content = {NDJSON[0]: {"schema": text}, NPZ: {"schema": file}, "multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": content}}
