"""Every setting of the server. Each is an option of `wander serve` and an environment variable `WANDER_*`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from wander.engines import DEFAULT_ENGINE
from wander.errors import UsageError


class Settings(BaseSettings):
    """Sizes are in bytes or rows, times in milliseconds or seconds as their names say."""

    model_config = SettingsConfigDict(env_prefix="WANDER_", frozen=True, extra="forbid", hide_input_in_errors=True)

    models: Path = Field(default=Path("models"), description="Folder with a folder for every model.")
    indexes: Path = Field(default=Path("indexes"), description="Folder with a folder for every retrieval index.")
    index_server: str | None = Field(
        default=None, description="Address of a Chroma server for new indexes, http://host:port; none: on disk here."
    )
    index_exact_mb: float = Field(
        default=256.0, ge=0, description="Size of an index's vectors up to which it is searched exactly."
    )
    index_recall: float = Field(
        default=0.95, gt=0, le=1, description="Recall an approximate search must be measured to have; else it is exact."
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    workers: int = Field(default=1, ge=1, le=64, description="Processes that serve together.")
    grpc_port: int | None = Field(
        default=None, ge=0, le=65535, description="Port for gRPC; 0 takes a free one. Without it there is none."
    )
    demo: bool = Field(default=False, description="Serve demonstration pages of the models at /demo.")
    demo_key: str | None = Field(
        default=None, repr=False, description="Key with which the demonstration asks, for all who reach its page."
    )
    model_control: Literal["none", "poll", "explicit"] = Field(
        default="none", description="none: all models, for good; poll: follow the folder; explicit: load on demand."
    )
    poll_s: float = Field(default=2.0, gt=0, description="How often a folder that is polled is looked at.")
    load: str | None = Field(default=None, description="With explicit control: models to start with, by commas.")
    memory_mb: float = Field(default=0, ge=0, description="Budget for weights; idle models make room. 0: no limit.")
    engine: str = Field(default=DEFAULT_ENGINE, description="What runs the graphs.")
    instances: int = Field(
        default=0, ge=0, description="Engine instances of every graph; 0: one a core for small graphs, else one."
    )
    threads: int = Field(default=0, ge=0, description="Threads of one instance; 0: the cores shared out.")
    adaptive_batching: bool = Field(default=True, description="Keep batches at the size that is fastest per row.")
    max_queue_rows: int = Field(default=4096, ge=1, description="Rows that may wait for one graph; more are refused.")
    batch_delay_ms: float = Field(default=0.0, ge=0, description="How long an idle engine waits for company.")
    max_body_bytes: int = Field(default=32 << 20, ge=1, description="Largest body of a request.")
    body_timeout_s: float = Field(default=60.0, gt=0, description="How long the body of a request may take to come.")
    max_connections: int = Field(default=1000, ge=1, description="Connections at once; more are refused.")
    keep_alive_s: int = Field(
        default=75, ge=1, description="How long a connection may be idle; clients and proxies should end it first."
    )
    max_items: int = Field(default=1024, ge=1, description="Most items of one bulk request.")
    max_length: int = Field(default=8192, ge=1, description="Longest side of a tensor of a request, but its rows.")
    keys: str | None = Field(
        default=None, repr=False, description="File of the keys that are let in, or its JSON; none: all but admin."
    )
    cors_origin: str | None = Field(
        default=None, description="Origins (https://host) of pages that may ask, by commas; none: no other site's."
    )
    timeout_ms: float = Field(default=30_000, gt=0, description="Deadline of a request that names none.")
    drain_s: float = Field(default=10.0, ge=0, description="How long a stopping server finishes its requests.")
    log_format: Literal["text", "json"] = Field(default="text", description="Form of the log, on stderr.")
    access_log: bool = Field(default=False, description="Log every request; metrics count them anyway.")
    otlp_endpoint: str | None = Field(
        default=None, description="Where traces go: OTLP over HTTP, such as http://localhost:4318/v1/traces."
    )
    trace_ratio: float = Field(
        default=1.0, ge=0, le=1, description="Share of traced requests, if the client is silent."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least that is logged.")


def origins(text: str) -> list[str]:
    """The origins of `cors_origin`. Raises UsageError for what is none; `*` is none, for it would let in every site."""
    found = [origin.strip() for origin in text.split(",")]
    for origin in found:
        if not re.fullmatch(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?", origin):
            raise UsageError(f"--cors-origin: {origin!r} is no origin, such as https://example.org or http://host:8080")
    return found
