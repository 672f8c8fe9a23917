"""Wild requests of the Open Inference Protocol: none may crash the server, hang, or be answered with 5xx.

    python -m benchmarks.fuzz_v2 models [--cases 100000] [--seed 0]
    python -m benchmarks.fuzz_v2 --guided [--cases 100000]

The first sends requests to the application itself, without a socket: valid ones for every graph of the models, with
binary tensors, JSON or both, whose members, bytes, lengths and encodings are changed at random, by a seed. What is
answered with 200 must have the shape of an answer, and every error its text. The second gives bytes to the reader of
bodies alone, guided by what they reach in its code; it needs the package atheris. Both exit 1 at the first failure and
print the request that caused it.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import random
import sys
import tempfile
import time
import zlib
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import orjson
import typer
from fastapi import FastAPI

from serving.app import create_app
from serving.protocols._tensors import NAMES
from serving.settings import Settings
from wander.console import progress
from wander.errors import InputError
from wander.signature import Signature, TensorSpec

LIMIT_S = 10.0
"""A request that takes longer hangs."""
OWN_DEADLINE = 504
"""Answers a request that names a time too short for it; that of the server is longer than the limit."""
WILD: list[Any] = [
    None, True, False, 0, 1, -1, 2, 2**31, 2**53, 2**63, 2**64 - 1, -(2**63), 0.5, -0.0, 1e308, 10**12, "", "x", "é\0",
    "FP32", "INT8", "BYTES", "BF16", "BOOL", [], {}, [[]], [[1], 2], [1, [2]], [None], {"a": {"b": []}}, "9" * 30,
    [2**40, 2**40], [0, 2**62, 2**62], [1] * 70,
]  # fmt: skip
MEMBERS = [
    "id", "parameters", "inputs", "outputs", "name", "shape", "datatype", "data", "binary_data", "binary_data_size",
    "binary_data_output", "classification", "shared_memory_region", "adapter", "timeout", "priority",
]  # fmt: skip

Request = tuple[str, list[tuple[bytes, bytes]], bytes]
"""Path, headers and body."""


class Failed(Exception):
    """A request was answered as none may be."""


def tensors(rng: random.Random, signature: Signature) -> dict[str, np.ndarray[Any, Any]]:
    """Inputs that fit, of one to three rows."""
    sizes: dict[int | str, int] = {"batch": rng.randint(1, 3)}
    arrays = {}
    for spec in signature.inputs:
        shape = [size if isinstance(size, int) else sizes.setdefault(size, rng.randint(1, 6)) for size in spec.dims]
        values = np.random.default_rng(rng.getrandbits(32)).normal(size=shape)
        arrays[spec.name] = values.astype(spec.dtype)
    return arrays


def valid(rng: random.Random, signature: Signature) -> tuple[dict[str, Any], bytes]:
    """The JSON of a request that is answered, and the binary data after it."""
    binary, blocks, inputs = rng.random() < 0.7, [], []
    for name, array in tensors(rng, signature).items():
        one: dict[str, Any] = {"name": name, "datatype": NAMES[array.dtype.name], "shape": list(array.shape)}
        if binary and rng.random() < 0.9:
            one["parameters"] = {"binary_data_size": array.nbytes}
            blocks.append(array.tobytes())
        else:
            one["data"] = (array if rng.random() < 0.5 else array.reshape(-1)).tolist()
        inputs.append(one)
    value: dict[str, Any] = {"inputs": inputs}
    if rng.random() < 0.3:
        value["id"] = "7"
    if rng.random() < 0.5:
        value["parameters"] = {"binary_data_output": rng.random() < 0.5, "priority": rng.randint(0, 3)}
    if rng.random() < 0.5:
        names = [spec.name for spec in signature.outputs]
        value["outputs"] = [{"name": name, "parameters": {"binary_data": rng.random() < 0.5}} for name in names]
    return value, b"".join(blocks)


def change_member(rng: random.Random, value: Any) -> None:
    """Replaces, adds, removes or doubles something in JSON (in place)."""
    place = value
    while True:
        inner = [one for one in (place.values() if isinstance(place, dict) else place) if isinstance(one, dict | list)]
        inner = [one for one in inner if one]
        if not inner or rng.random() < 0.3:
            break
        place = rng.choice(inner)
    if isinstance(place, dict):
        key = rng.choice(sorted(place)) if place and rng.random() < 0.7 else rng.choice(MEMBERS)
        if rng.random() < 0.2:
            place.pop(key, None)
        else:
            place[key] = deepcopy(rng.choice(WILD))
    elif rng.random() < 0.5:
        place[rng.randrange(len(place))] = deepcopy(rng.choice(WILD))
    else:
        place.insert(rng.randint(0, len(place)), deepcopy(rng.choice([*WILD, *place])))


def change_bytes(rng: random.Random, body: bytes) -> bytes:
    """Flips, cuts, inserts or repeats bytes."""
    at, length = rng.randint(0, len(body)), rng.choice((1, 2, 4, 16, 200))
    return rng.choice(
        (
            lambda: body[:at],
            lambda: body[:at] + rng.randbytes(length) + body[at:],
            lambda: body[:at] + rng.randbytes(length) + body[at + length :],
            lambda: body[:at] + body[at + length :],
            lambda: body[:at] + body[max(0, at - length) : at] + body[at:],
        )
    )()


def request(rng: random.Random, graphs: dict[str, Signature]) -> Request:
    """A request, which is wild in nine cases of ten."""
    name = rng.choice(sorted(graphs))
    value, data = valid(rng, graphs[name])
    wild = rng.random() < 0.9
    if wild and rng.random() < 0.6:
        for _ in range(rng.randint(1, 3)):
            change_member(rng, value)
    text = orjson.dumps(value)
    body = text + data
    if wild and rng.random() < 0.4:
        body = change_bytes(rng, body)
    headers = []
    if data or rng.random() < 0.2:
        length: Any = len(text)
        if wild and rng.random() < 0.2:
            length = rng.choice(
                (0, -1, length - 1, length + 1, len(body), len(body) + 1, 10**17, 10**40, "x", "", "1.5")
            )
        headers.append((b"inference-header-content-length", str(length).encode()))
    if rng.random() < 0.1:
        encoding, pack = rng.choice(((b"gzip", gzip.compress), (b"deflate", zlib.compress), (b"br", bytes)))
        headers.append((b"content-encoding", encoding))
        body = pack(body)
        if wild and rng.random() < 0.5:
            body = change_bytes(rng, body)
    if wild and rng.random() < 0.05:
        headers.append((b"x-request-timeout-ms", rng.choice((b"0", b"-1", b"nan", b"x", b"\xff", b"1e400", b"5000"))))
    if wild and rng.random() < 0.05:
        name = rng.choice(("nobody", "", "..", "%2e%2e", "\0", "é", "a/versions/b", f"{name}/versions/9", name * 50))
    return f"/v2/models/{name}/infer", headers, body


async def answer(app: FastAPI, asked: Request) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, headers and body of the application's answer, whose request comes in pieces now and then."""
    path, headers, body = asked
    half = len(body) // 2 if len(body) % 3 == 0 else 0
    pieces = [body[:half], body[half:]] if half else [body]
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        if not pieces:
            await asyncio.Event().wait()  # for a client that does not hang up
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": [*headers, (b"content-length", b"%d" % len(body))], "client": ("::1", 1), "server": ("::1", 80),
    }  # fmt: skip
    async with asyncio.timeout(LIMIT_S):
        await app(scope, receive, send)
    start, *rest = sent
    return start["status"], dict(start["headers"]), b"".join(part.get("body", b"") for part in rest)


def check(status: int, headers: dict[bytes, bytes], body: bytes) -> None:
    """Raises Failed, or what shows that the answer is none."""
    if status >= 500 and status != OWN_DEADLINE:
        raise Failed(f"status {status}: {body[:300]!r}")
    if status != 200:
        if list(orjson.loads(body)) != ["error"]:
            raise Failed(f"status {status} without its error: {body[:300]!r}")
        return
    length = int(headers.get(b"inference-header-content-length", len(body)))
    outputs = orjson.loads(body[:length])["outputs"]
    if sum(one.get("parameters", {}).get("binary_data_size", 0) for one in outputs) != len(body) - length:
        raise Failed("the binary data are not as long as they are said to be")


async def fuzz(models: Path, cases: int, seed: int) -> tuple[Counter[int], float]:
    """Answers by status, and the seconds of the slowest."""
    rng, statuses, slowest = random.Random(seed), Counter[int](), 0.0
    app = create_app(Settings(models=models, max_body_bytes=1 << 20))
    async with app.router.lifespan_context(app):
        repository = app.state.service.repository
        graphs = {
            known_as: model.bundle.manifest.graphs[graph].signature
            for model in repository.models
            for known_as, graph in model.graph_names().items()
        }
        with progress() as display:
            for _ in display.track(range(cases), description="requests"):
                asked = request(rng, graphs)
                started = time.perf_counter()
                try:
                    status, headers, body = await answer(app, asked)
                    check(status, headers, body)
                except Exception as error:
                    path, headed, sent = asked
                    print(f"{path!r} {headed!r}\n{base64.b64encode(sent).decode()}")
                    raise Failed(f"{type(error).__name__}: {error}") from error
                slowest = max(slowest, time.perf_counter() - started)
                statuses[status] += 1
    return statuses, slowest


def guided(cases: int, seed: int) -> None:
    """Bytes to the reader of bodies, by what they reach, from a few valid ones on. Ends the process."""
    import atheris

    sys.modules.pop("serving.protocols._tensors")  # to be loaded anew, so that atheris sees what is reached
    with atheris.instrument_imports(include=["serving.protocols._tensors"]):
        from serving.protocols._tensors import decode

    def one(data: bytes) -> None:
        length = int.from_bytes(data[:2], "little")
        try:
            decode(data[2:], None if length == 0 else length)
        except InputError:
            return

    rng = random.Random(seed)
    spec = TensorSpec(name="x", dtype="int8", dims=("batch", 2))
    signature = Signature(inputs=(spec, spec.model_copy(update={"name": "y", "dtype": "float32"})), outputs=(spec,))
    with tempfile.TemporaryDirectory() as corpus:
        for number in range(30):
            value, data = valid(rng, signature)
            text = orjson.dumps(value)
            (Path(corpus) / str(number)).write_bytes(len(text).to_bytes(2, "little") + text + data)
        arguments = [f"-runs={cases}", f"-seed={seed + 1}", "-max_len=600", "-timeout=5", corpus]
        atheris.Setup([sys.argv[0], *arguments], one)
        atheris.Fuzz()


def main(
    models: Annotated[Path, typer.Argument(help="Folder with a folder for every model.")] = Path("models"),
    cases: Annotated[int, typer.Option(help="Requests, or inputs with --guided.")] = 100_000,
    seed: Annotated[int, typer.Option(help="Of what is random.")] = 0,
    coverage: Annotated[bool, typer.Option("--guided", help="The reader of bodies alone, with atheris.")] = False,
) -> None:
    """Wild requests of the Open Inference Protocol."""
    if coverage:
        guided(cases, seed)
    try:
        statuses, slowest = asyncio.run(fuzz(models, cases, seed))
    except Failed as error:
        print(f"failed: {error}")
        raise typer.Exit(1) from error
    told = ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))
    print(f"{sum(statuses.values())} requests, seed {seed}; answers {told}; the slowest took {slowest * 1000:.0f} ms")


if __name__ == "__main__":
    typer.run(main)
