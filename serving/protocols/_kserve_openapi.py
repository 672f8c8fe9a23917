"""What the OpenAPI document says of the Open Inference Protocol."""

from __future__ import annotations

from typing import Any

from serving.protocols._tensors import DTYPES

INFER = "/infer"

_ERROR = {
    "type": "object",
    "properties": {"error": {"type": "string"}},
    "required": ["error"],
    "additionalProperties": False,
}
_PARAMETERS = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}
_TENSOR = {
    "name": {"type": "string"},
    "datatype": {"type": "string", "enum": list(DTYPES)},
    "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
    "data": {"type": "array", "description": "flat in row-major order, or nested as the shape is"},
    "parameters": _PARAMETERS,
}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "the answer", "content": _json({})},
    **{
        status: {"description": text, "content": _json(_ERROR)}
        for status, text in {
            400: "the body cannot be parsed",
            403: "models are not controlled by requests here",
            404: "no such model, version or adapter",
            413: "too large",
            415: "content-encoding not supported",
            422: "the input is not valid; names the field",
            429: "the queue is full; see Retry-After",
            500: "the engine failed",
            503: "loading or draining; see Retry-After",
            504: "the deadline passed",
        }.items()
    },
}
BODY = {"requestBody": {"required": False, "content": _json({"type": "object"})}}

_BINARY = "a JSON object of as many bytes as Inference-Header-Content-Length says, and then the binary data"
_REQUEST = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "parameters": {
            **_PARAMETERS,
            "properties": {
                "adapter": {"type": "string"},
                "timeout": {"type": "integer", "minimum": 0, "description": "in microseconds"},
                "priority": {"type": "integer", "minimum": 0, "description": "from 2 on, others go first"},
                "binary_data_output": {"type": "boolean"},
            },
        },
        "inputs": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "object", "properties": _TENSOR, "required": ["name", "datatype", "shape"]},
        },
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "parameters": _PARAMETERS},
                "required": ["name"],
            },
        },
    },
    "required": ["inputs"],
}
_ANSWER = {
    "type": "object",
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "parameters": _PARAMETERS,
        "outputs": {
            "type": "array",
            "items": {"type": "object", "properties": _TENSOR, "required": ["name", "datatype", "shape"]},
        },
    },
    "required": ["model_name", "model_version", "outputs"],
}


def _either(schema: dict[str, Any]) -> dict[str, Any]:
    return {
        **_json(schema),
        "application/octet-stream": {"schema": {"type": "string", "format": "binary", "description": _BINARY}},
    }


def infer_operation(version: bool) -> dict[str, Any]:
    """The operation of inference, by a version or by the default one. The router does not know of it."""
    names = ["name", "version"] if version else ["name"]
    headers = {"Inference-Header-Content-Length": {"type": "integer"}, "X-Request-Timeout-Ms": {"type": "number"}}
    return {
        "tags": ["Open Inference Protocol"],
        "summary": "Run a graph on tensors",
        "operationId": "v2_infer_version" if version else "v2_infer",
        "parameters": [
            *({"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names),
            *({"name": name, "in": "header", "schema": schema} for name, schema in headers.items()),
        ],
        "requestBody": {"required": True, "content": _either(_REQUEST)},
        "responses": {
            **{str(status): response for status, response in RESPONSES.items()},
            "200": {"description": "the answer", "content": _either(_ANSWER)},
        },
    }
