"""What a server says of its models, as the page needs it. Knows neither page nor request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from serving.client import Client

SMALL_BYTES = 100_000_000
"""Weights below this are those of a small model."""


@dataclass(frozen=True)
class Model:
    """One model that can be asked.

    Attributes:
        told: what `GET /v1/models` says of it.
        example: the item that came with it, for its first operation.
    """

    told: Mapping[str, Any]
    example: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.told["name"])

    @property
    def task(self) -> str:
        return str(self.told["task"])

    def fields(self, operation: str = "") -> Mapping[str, Any]:
        """Field of an item -> its JSON schema."""
        found: Mapping[str, Any] = self.told["items"].get(operation, {}).get("properties", {})
        return found

    def needs(self, name: str, operation: str = "") -> bool:
        """Whether an item without this field is refused."""
        return name in self.told["items"].get(operation, {}).get("required", ())

    def takes_file(self, name: str, operation: str = "") -> bool:
        return any(one.get("contentEncoding") == "base64" for one in kinds(self.fields(operation).get(name)))

    def takes_text(self, name: str, operation: str = "") -> bool:
        """Whether the field may be words, as a person types them."""
        schemas = kinds(self.fields(operation).get(name))
        return any(one.get("type") == "string" and "contentEncoding" not in one for one in schemas)

    def takes_rows(self, name: str, operation: str = "") -> bool:
        """Whether the field may be features: rows of numbers."""
        schemas = kinds(self.fields(operation).get(name))
        return any(one.get("type") == "array" and one["items"].get("type") == "array" for one in schemas)

    def takes_features(self, operation: str = "") -> bool:
        return any(self.takes_rows(name, operation) for name in self.fields(operation))

    @property
    def explains(self) -> bool:
        return "explain" in self.fields()

    @property
    def shape(self) -> tuple[Any, ...]:
        """What the page is made of: another shape needs another page."""
        return self.name, self.task, repr(self.told["items"]), tuple(self.told["labels"])

    @property
    def caveat(self) -> str:
        """What a visitor has to know before believing an answer; empty for a trained model of full size."""
        provenance = self.told["provenance"]
        if provenance.get("weights") == "random":
            return "Random weights: nothing was learned, and the answers mean nothing."
        size = int(self.told["weights_bytes"])
        if size >= SMALL_BYTES:
            return ""
        data = f", trained on {provenance['data']}" if provenance.get("data") else ""
        return f"A small demonstration model: {size / 1e6:.2g} MB of weights{data}. Expect it to be wrong at times."


def kinds(schema: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The schemas that a field may have, none of them a choice again."""
    if schema is None:
        return []
    ways = schema.get("anyOf") or schema.get("oneOf")
    return [kind for way in ways for kind in kinds(way)] if ways else [schema]


def models_of(client: Client) -> list[Model]:
    """The default version of every model. Raises the errors of a service."""
    told = [one for one in client.models() if one["default"]]
    examples: dict[str, Any] = {}
    for route in client.document()["paths"].values():
        body = route.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json", {})
        examples |= {name: one["value"] for name, one in body.get("examples", {}).items()}
    return [Model(one, examples.get(one["name"], {})) for one in told]
