"""The forms in which tensors travel: what one row is as a request, and what the answer says. Knows no server."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.models import Graph

Row = Mapping[str, NDArray[Any]]
JSON_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Request:
    """What is posted."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Form:
    """Attributes:

    says: what the body is, for the report.
    request: one row, inputs (..) without a batch dimension, as a request.
    answer: the output (width,) that an answer's headers and body hold.
    """

    says: str
    request: Callable[[Graph, Row], Request]
    answer: Callable[[Graph, Mapping[str, str], bytes], NDArray[Any]]


def _raw_request(graph: Graph, row: Row) -> Request:
    body = b"".join(row[spec.name].tobytes() for spec in graph.signature.inputs)
    return Request("/binary", {"Content-Type": "application/octet-stream"}, body)


def _raw_answer(graph: Graph, headers: Mapping[str, str], body: bytes) -> NDArray[Any]:
    return np.frombuffer(body, np.float32)


def _lists_request(graph: Graph, row: Row) -> Request:
    return _json_request("/json", {name: value.tolist() for name, value in row.items()})


def _lists_answer(graph: Graph, headers: Mapping[str, str], body: bytes) -> NDArray[Any]:
    return np.array(json.loads(body)["output"], np.float32)


def _native_request(graph: Graph, row: Row) -> Request:
    return _json_request(f"/v1/{graph.task}", {name: value.tolist() for name, value in row.items()})


def _native_answer(graph: Graph, headers: Mapping[str, str], body: bytes) -> NDArray[Any]:
    return np.array([json.loads(body)[graph.signature.outputs[0].name]], np.float32)


def _v2_json_request(graph: Graph, row: Row) -> Request:
    inputs = [_v2_input(name, value) | {"data": value.ravel().tolist()} for name, value in row.items()]
    return _json_request(f"/v2/models/{graph.name}/infer", {"inputs": inputs})


def _v2_binary_request(graph: Graph, row: Row) -> Request:
    inputs = [
        _v2_input(name, value) | {"parameters": {"binary_data_size": value.nbytes}} for name, value in row.items()
    ]
    head = _compact({"inputs": inputs, "parameters": {"binary_data_output": True}})
    headers = {"Content-Type": "application/octet-stream", JSON_LENGTH: str(len(head))}
    body = head + b"".join(value.tobytes() for value in row.values())
    return Request(f"/v2/models/{graph.name}/infer", headers, body)


def _v2_answer(graph: Graph, headers: Mapping[str, str], body: bytes) -> NDArray[Any]:
    """Of either kind: outputs with `data`, or with their bytes after the JSON."""
    length = int(headers.get(JSON_LENGTH.lower(), len(body)))
    output = json.loads(body[:length])["outputs"][0]
    if "data" in output:
        return np.array(output["data"], np.float32)
    return np.frombuffer(body, np.float32, offset=length)


def _v2_input(name: str, value: NDArray[Any]) -> dict[str, Any]:
    return {"name": name, "shape": [1, *value.shape], "datatype": "FP32"}


def _json_request(path: str, content: object) -> Request:
    return Request(path, {"Content-Type": "application/json"}, _compact(content))


def _compact(content: object) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


RAW = Form("the float32 values of all inputs, one after another", _raw_request, _raw_answer)
LISTS = Form('JSON: {"input": nested lists}', _lists_request, _lists_answer)
NATIVE = Form('/v1 JSON: {"input": nested lists}', _native_request, _native_answer)
V2_BINARY = Form("KServe v2 with the binary tensor extension", _v2_binary_request, _v2_answer)
V2_JSON = Form("KServe v2, JSON", _v2_json_request, _v2_answer)


def _bento_rows_request(graph: Graph, row: Row) -> Request:
    return _json_request("/json", {"rows": [{name: value.tolist() for name, value in row.items()}]})


def _bento_answer(graph: Graph, headers: Mapping[str, str], body: bytes) -> NDArray[Any]:
    return np.array(json.loads(body)[0], np.float32)


BENTO_BYTES = Form("the float32 values of all inputs; the answer is JSON", _raw_request, _bento_answer)
BENTO_ROWS = Form('JSON: {"rows": [{"input": nested lists}]}', _bento_rows_request, _bento_answer)
