"""Bodies of our own protocol to items: JSON, multipart with the task's files, or an .npz of feature arrays."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from serving.parsing import parse_json
from serving.settings import Settings
from wander.errors import InputError, MalformedBody, TooLarge, UnsupportedMedia
from wander.npz import read_npz
from wander.tasks.base import Item

ADDRESS = ("model", "version", "adapter")
"""Fields of a request that say which model is meant; in the body, or in the query."""
MAX_FIELDS = 32
MAX_FILES = 4
"""Of a form whose model is known only when the form is read."""


@dataclass
class Body:
    """What a request holds: one item, or a list of them, and which model it is meant for."""

    content: Item | list[Item]
    address: dict[str, str] = field(default_factory=dict)


Files = Callable[[dict[str, str]], tuple[str, ...]]
"""Which model is meant -> the fields of its items that may be files, beside the uploads of its task."""


async def read_body(
    request: Request,
    uploads: tuple[str, ...],
    settings: Settings,
    options: tuple[str, ...] = (),
    files: Files = lambda address: (),
) -> Body:
    """The items of a request for a task whose items have these files.

    Args:
        options: fields of an item that are taken from the query where the item has none.

    Raises MalformedBody, UnsupportedMedia, TooLarge, and InputError that names the field.
    """
    body = await _read(request, uploads, settings, files)
    if given := {name: request.query_params[name] for name in options if name in request.query_params}:
        content = body.content
        merged: Item | list[Item] = (
            [{**given, **item} for item in content] if isinstance(content, list) else {**given, **content}
        )
        return Body(merged, body.address)
    return body


async def _read(request: Request, uploads: tuple[str, ...], settings: Settings, files: Files) -> Body:
    address = {name: request.query_params[name] for name in ADDRESS if name in request.query_params}
    media = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media == "application/json":
        body = _from_json(await request.body(), address)
        decode_files(body, uploads, files(body.address))
        return body
    if media == "multipart/form-data":
        form = await _form(request, len(uploads) or MAX_FILES)
        try:
            return await _from_form(form, address, uploads, settings, files)
        finally:
            await form.close()
    raise UnsupportedMedia(f"{media} is not read here; send application/json or multipart/form-data")


async def read_files(request: Request, most: int) -> list[bytes]:
    """The files of a form that holds nothing else. Raises MalformedBody, and InputError that names another field."""
    form = await _form(request, most)
    try:
        if texts := [name for name, value in form.items() if isinstance(value, str)]:
            raise InputError(f"{texts[0]} is not a field of a multipart body", texts[0])
        return [await value.read() for _, value in form.multi_items() if isinstance(value, UploadFile)]
    finally:
        await form.close()


async def _form(request: Request, max_files: int) -> FormData:
    try:
        return await request.form(max_files=max_files, max_fields=MAX_FIELDS)
    except HTTPException as error:
        raise MalformedBody(f"the multipart body cannot be parsed: {error.detail}") from error


async def _from_form(
    form: FormData, address: dict[str, str], uploads: tuple[str, ...], settings: Settings, more: Files
) -> Body:
    """Fields and files of one item; or, for a task without files, one .npz of arrays under any other name."""
    texts = {name: value for name, value in form.items() if isinstance(value, str)}
    files = {name: value for name, value in form.items() if isinstance(value, UploadFile)}
    address |= {name: texts.pop(name) for name in ADDRESS if name in texts}
    known = uploads or more(address)
    if sum(isinstance(value, UploadFile) for _, value in form.multi_items()) > max(1, len(known)):
        raise MalformedBody(f"the multipart body has more files than the model takes, {max(1, len(known))}")
    if not known or (not uploads and files and not set(files) & set(known)):
        if len(files) != 1:
            raise InputError("a multipart body needs one .npz file", "file")
        if texts:
            raise InputError(f"{next(iter(texts))} is not a field of a multipart body", next(iter(texts)))
        return Body(_from_arrays(await next(iter(files.values())).read(), settings), address)
    if unknown := sorted(set(files) - set(known)):
        raise InputError(f"{unknown[0]} is no file of this task; its files are {', '.join(known)}", unknown[0])
    return Body({**texts, **{name: await file.read() for name, file in files.items()}}, address)


def _from_json(body: bytes, address: dict[str, str]) -> Body:
    value = parse_json(body, "the body")
    if not isinstance(value, dict):
        raise InputError("the body must be a JSON object")
    for name in ADDRESS:
        if (given := value.pop(name, None)) is not None:
            if not isinstance(given, str):
                raise InputError(f"{name} must be a string", name)
            address[name] = given
    if "items" not in value:
        return Body(value, address)
    items = value.pop("items")
    if value:
        raise InputError(f"{next(iter(value))} cannot stand beside items", next(iter(value)))
    if not isinstance(items, list) or not items:
        raise InputError("items must be a list with at least one item", "items")
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise InputError("an item must be a JSON object", f"items[{index}]")
    return Body(items, address)


def decode_files(body: Body, uploads: tuple[str, ...], optional: tuple[str, ...] = ()) -> None:
    """Files stand in JSON as base64 (in place). An object or nothing in its place is for the task, and so is whatever
    else stands in the place of one that is `optional`."""
    items: list[Any] = body.content if isinstance(body.content, list) else [body.content]
    for index, item in enumerate(items):
        for name in (*uploads, *optional):
            if item.get(name) is None or isinstance(item[name], dict):
                continue
            if name in optional and not isinstance(item[name], str):
                continue
            where = f"items[{index}].{name}" if isinstance(body.content, list) else name
            if not isinstance(item[name], str):
                raise InputError(f"{name} must be a file in base64", where)
            try:
                item[name] = base64.b64decode(item[name], validate=True)
            except (binascii.Error, ValueError) as error:
                raise InputError(f"{name} is not base64: {error}", where) from error


def _from_arrays(body: bytes, settings: Settings) -> Item | list[Item]:
    """Arrays of three dimensions hold a row an item, arrays of two are one item."""
    arrays: Mapping[str, Any] = read_npz(body, settings.max_body_bytes)
    if not arrays:
        raise InputError("the .npz holds no array", "file")
    if all(array.ndim == 2 for array in arrays.values()):
        return arrays
    rows = {len(array) if array.ndim == 3 else 0 for array in arrays.values()}
    if len(rows) != 1 or rows == {0}:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise InputError(
            f"the arrays must all have two dimensions, or three with as many rows each, not: {shapes}", "file"
        )
    count = rows.pop()
    if count > settings.max_items:
        raise TooLarge(f"{count} rows are more than the {settings.max_items} items of one request", "file")
    return [{name: array[i] for name, array in arrays.items()} for i in range(count)]
