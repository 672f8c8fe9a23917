"""Hostile files, sent to a server one after another: what came back, and whether the server lives."""

from __future__ import annotations

import time
from typing import Any

import httpx

from benchmarks.startup import Running, ServerFailed
from serving.protocols.base import STATUS
from tests.hostile import Case


def ask(client: httpx.Client, running: Running, case: Case, path: str, **form: Any) -> dict[str, Any]:
    """Sends one file as a form (`files`, `data` of httpx). Raises ServerFailed if nothing came back."""
    root = f"http://127.0.0.1:{running.port}"
    started = time.perf_counter()
    try:
        reply = client.post(f"{root}{path}", **form)
        taken = time.perf_counter() - started
        alive = client.get(f"{root}/livez").status_code == 200 and running.process.poll() is None
    except httpx.TransportError as error:
        raise ServerFailed(f"{case.name}: the server gave no answer: {error}") from error
    body = reply.json()
    return {
        "note": case.note,
        "bytes": len(case.data),
        "deserved": 200 if case.expected == "ok" else STATUS[case.expected],
        "status": reply.status_code,
        "field": body.get("field"),
        "detail": body.get("detail", ""),
        "seconds": taken,
        "alive": alive,
    }


def cell(text: str) -> str:
    """Text that a cell of a markdown table can hold; what a decoder quotes of a file may be anything."""
    line = " ".join(text.replace("|", "\\|").split())
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
