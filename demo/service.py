"""The server that the page asks: where it is, and with which key. Everything goes over HTTP, also to itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from demo.models import Model, models_of
from serving.client import Client

TIMEOUT_MS = 30_000.0


@dataclass(frozen=True)
class Service:
    """Attributes:

    mounted: whether the page is part of the server, which then needs no proxy to be reached.
    """

    url: str
    key: str | None = field(default=None, repr=False)
    mounted: bool = False

    def client(self) -> Client:
        options = {"trust_env": False} if self.mounted else {}
        return Client(self.url, api_key=self.key, timeout_ms=TIMEOUT_MS, **options)

    def models(self) -> list[Model]:
        """Raises the errors of a service."""
        with self.client() as client:
            return models_of(client)
