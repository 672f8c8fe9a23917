"""What `wander index` asks of a server. Errors of the server come back as errors of this process."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import httpx

from wander.errors import ServiceError, UsageError

TIMEOUT_S = 60.0
PAGE = 1000
LINES = 64
"""Most items of one bulk request."""
LINES_BYTES = 8 << 20
"""Most bytes of one bulk request, unless a single line has more."""


class Server:
    """A connection; several threads may use it. Its methods raise ServiceError for what the server refuses.

    Args:
        model: embeds what is put or looked for; None for that of the index.
    """

    def __init__(self, url: str, model: str | None = None) -> None:
        self._url = url
        self._query = {"model": model} if model else {}
        try:
            self._client = httpx.Client(base_url=url, timeout=TIMEOUT_S)
        except httpx.InvalidURL as error:
            raise UsageError(f"{url} is no address of a server: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def indexes(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._ask("GET", "")["indexes"]
        return found

    def items(self, index: str) -> Iterator[dict[str, Any]]:
        """All of them, by id."""
        after: str | None = ""
        while after is not None:
            page = self._ask("GET", f"/{_quoted(index)}/items", params={"limit": PAGE, "after": after})
            yield from page["items"]
            after = page["next"]

    def put_file(self, index: str, file: Path) -> None:
        path = f"/{_quoted(index)}/items/{_quoted(file.name)}"
        self._ask("PUT", path, params=self._query, files={"image": (file.name, file.read_bytes())})

    def put_lines(self, index: str, lines: list[bytes]) -> list[dict[str, Any]]:
        """A result for every line, in order."""
        answer = self._ask(
            "PUT",
            f"/{_quoted(index)}/items",
            params=self._query,
            content=b"\n".join(lines),
            headers={"content-type": "application/x-ndjson"},
        )
        results: list[dict[str, Any]] = answer["results"]
        return results

    def search(self, index: str, fields: dict[str, Any], words: str | None, image: Path | None) -> dict[str, Any]:
        path = f"/{_quoted(index)}/search"
        if image is None:
            return self._ask("POST", path, params=self._query, json={**fields, "text": words})
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}
        files = {"image": (image.name, image.read_bytes())}
        return self._ask("POST", path, params=self._query, data=texts, files=files)

    def _ask(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        try:
            response = self._client.request(method, f"/v1/retrieval{path}", **request)
        except (httpx.ConnectError, httpx.UnsupportedProtocol) as error:
            raise UsageError(f"no server answers at {self._url}; start one with: wander serve MODELS") from error
        except httpx.HTTPError as error:
            raise ServiceError(f"the server at {self._url} did not answer: {error}") from error
        try:
            answer: dict[str, Any] = response.json()
        except ValueError as error:
            raise ServiceError(f"{self._url} answers, but is no server of ours: {response.status_code}") from error
        if not response.is_success:
            raise ServiceError(str(answer.get("detail", response.status_code)))
        return answer


def chunks(lines: Iterable[bytes]) -> Iterator[list[tuple[int, bytes]]]:
    """Lines with their numbers from 1, blank ones left out, in groups of which each makes one request."""
    group: list[tuple[int, bytes]] = []
    size = 0
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line:
            continue
        if group and (len(group) == LINES or size + len(line) > LINES_BYTES):
            yield group
            group, size = [], 0
        group.append((number, line))
        size += len(line) + 1
    if group:
        yield group


def _quoted(part: str) -> str:
    return quote(part, safe="")
