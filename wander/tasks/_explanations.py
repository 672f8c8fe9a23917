"""What an answer says of its own causes: how much each token of each modality contributed to a score.

The numbers come from the graph `explain`; here they are only put beside the tokens that an item brought. What they
are is told in docs/explanations.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from wander.errors import BundleError, InputError
from wander.manifest import CONTRIBUTIONS, EXPLAIN, MAIN, RESIDUAL, Manifest
from wander.signature import Arrays
from wander.tasks.base import Item

FIELD = "explain"
NUMBER = {"type": "number"}


def check_graph(manifest: Manifest) -> bool:
    """Whether the bundle can explain what its graph `model` answers. Raises BundleError for a graph that does not."""
    if (graph := manifest.graphs.get(EXPLAIN)) is None:
        return False
    explained = manifest.graphs[MAIN].signature
    output = explained.outputs[0]
    wanted = {output.name: output.dims, RESIDUAL + output.name: output.dims}
    wanted |= {CONTRIBUTIONS + spec.name: (*spec.dims[:2], *output.item_dims) for spec in explained.inputs}
    if graph.signature.inputs != explained.inputs or {s.name: s.dims for s in graph.signature.outputs} != wanted:
        raise BundleError(f"the graph {EXPLAIN} does not fit {MAIN}: it needs outputs {', '.join(wanted)}")
    return True


def asked(item: Item, targets: Sequence[str], *, possible: bool) -> str | bool:
    """Whether an item wants an explanation; the target, if it names one. Raises InputError that names the field.

    In the query and in forms `true` and `false` are text.
    """
    value = item.get(FIELD)
    wanted = {None: False, "true": True, "false": False}.get(value, value) if isinstance(value, str | None) else value
    if not (isinstance(wanted, bool) or (isinstance(wanted, str) and wanted in targets)):
        raise InputError(f"explain must be {' or '.join(('true', 'false', *targets))}", FIELD)
    if wanted and not possible:
        raise InputError(
            "explain: this model has no graph that explains its answers; they come with an export of a Wander adapter "
            "in a late-fusion host",
            FIELD,
        )
    return wanted


def explanation(rows: Mapping[str, int], outputs: Arrays, output: str, which: int) -> dict[str, Any]:
    """The score `which`, that of the residual alone, and what the tokens contributed to the difference.

    Args:
        rows: how many every input was given.
        outputs: those of the graph `explain` for the item.
    """
    modalities = {}
    for name, array in outputs.items():
        if not name.startswith(CONTRIBUTIONS):
            continue
        field = name.removeprefix(CONTRIBUTIONS)
        contributions = array[:, which].astype(np.float64)
        given = rows[field]
        modalities[field] = {
            "contributions": contributions[:given].tolist(),
            "padding": float(contributions[given:].sum()),
            "total": float(contributions.sum()),
        }
    return {
        "score": float(outputs[output][which]),
        "residual_score": float(outputs[RESIDUAL + output][which]),
        "modalities": modalities,
    }


def tokens_schema(made: Iterable[str]) -> dict[str, Any]:
    """Of the `tokens` beside an `explanation` of raw input."""
    span = {"type": "array", "items": NUMBER, "minItems": 2, "maxItems": 2}
    tokens = {"type": "array", "items": {"anyOf": [{"type": "string"}, span]}}
    return {
        "type": "object",
        "properties": dict.fromkeys(made, tokens),
        "additionalProperties": False,
        "description": "of raw input: what each contribution is of, a word or seconds from and to",
    }


def request_schema(targets: Sequence[str]) -> dict[str, Any]:
    """Of the field `explain` of an item."""
    ways: list[dict[str, Any]] = [{"type": "boolean"}, {"enum": ["true", "false", *targets]}]
    about = "also say what each token contributed" + (", to the predicted class or to the one named" if targets else "")
    return {"anyOf": ways, "default": False, "description": about}


def answer_schema(lengths: dict[str, int], targets: Sequence[str]) -> dict[str, Any]:
    """Of the `explanation` in an answer."""
    modalities = {
        name: {
            "type": "object",
            "properties": {
                "contributions": {
                    "type": "array",
                    "items": NUMBER,
                    "maxItems": length,
                    "description": "one for every row that was sent, in order",
                },
                "padding": {**NUMBER, "description": "of the rows that were filled up, together"},
                "total": {**NUMBER, "description": "score - residual_score, but for rounding"},
            },
            "required": ["contributions", "padding", "total"],
            "additionalProperties": False,
        }
        for name, length in lengths.items()
    }
    properties: dict[str, Any] = {
        "target": {"enum": ["logit" if targets else "score"], "description": "the number that is explained"},
        "score": {**NUMBER, "description": "that number, with the adapter"},
        "residual_score": {**NUMBER, "description": "what it would be if the adapter added nothing"},
        "modalities": {
            "type": "object",
            "properties": modalities,
            "required": list(modalities),
            "additionalProperties": False,
        },
    }
    if targets:
        properties["label"] = {"enum": list(targets), "description": "the class whose logit is explained"}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
        "description": "where `explain` was asked; each modality by itself accounts for the whole difference",
    }
