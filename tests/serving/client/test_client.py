"""Both clients against a real server."""

from __future__ import annotations

import asyncio
import inspect
import math
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from serving.client import AsyncClient, Client
from serving.client._clients import Route, Routes
from serving.wire import STATUS
from tests.serving.building import PATIENCE, Linear, Running, item, items, random_rows
from tests.serving.client.conftest import Connect, Reply, Scripted
from tests.serving.index.colours import picture
from wander.errors import (
    ConfigError,
    DeadlineExceeded,
    InputError,
    NotFound,
    NotReady,
    Overloaded,
    ServiceError,
    Unreachable,
)

SCORES = [float(score) for score in Linear("sentiment")(random_rows(5))["score"][:, 0]]
NAMES = ["..", ".", "a/b", "a?b#c", "ü %2F", "%2e%2e", "a\\b", "x.png", "../../things"]
"""Ids that would change the path if they were not quoted."""


def rows(count: int) -> list[dict[str, Any]]:
    """`items(count)` as arrays."""
    arrays = random_rows(count)
    return [{name: array[row] for name, array in arrays.items()} for row in range(count)]


# Inference by task


def test_predict_from_lists_and_from_arrays(client: Client) -> None:
    for one in (item(), rows(1)[0], {n: np.asfortranarray(a.astype(">f8")) for n, a in rows(1)[0].items()}):
        answer = client.predict("sentiment", one)
        assert answer["score"] == pytest.approx(float(Linear("sentiment")(random_rows(1))["score"][0, 0]), abs=1e-5)
        assert (answer["model"], answer["version"], answer["adapter"]) == ("mosi", "1", "linear")


@pytest.mark.parametrize("many", [items(5), rows(5), [*items(5)[:2], *rows(5)[2:]]], ids=["lists", "arrays", "both"])
def test_predict_many(client: Client, many: list[Any]) -> None:
    answers = client.predict_many("sentiment", many)
    assert [answer["score"] for answer in answers if isinstance(answer, dict)] == pytest.approx(SCORES, abs=1e-5)


def test_forms_of_bodies(scripted: Scripted, connect: Connect, red: Path) -> None:
    """Arrays go as they are where they are alike, single files as they are, and everything else as JSON."""
    client = connect(scripted.url)
    scripted.replies = [Reply(body=b'{"results": [], "hits": []}')]
    one, two = rows(2)
    for many in ([one, two], [one, {**two, "text": two["text"][1:]}], [one, items(1)[0]], [{"image": red}], []):
        client.predict_many("x", many)
    for single in (one, {**one, "explain": True}, {"image": red, "top_k": 3}, {"text": np.arange(3)}):
        client.predict("x", single)
    client.search("x", one)
    forms = [request.headers["content-type"].partition(";")[0] for request in scripted.requests]
    form, json = "multipart/form-data", "application/json"
    assert forms == [form, json, json, json, json, form, json, form, json, json]


def test_item_that_fails_is_an_error_in_its_place(client: Client) -> None:
    many = rows(3)
    many[1]["audio"] = many[1]["audio"][:, :1]
    one, error, other = client.predict_many("sentiment", many)
    assert isinstance(one, dict)
    assert isinstance(other, dict)
    assert isinstance(error, InputError)
    assert error.field == "items[1].audio"


def test_the_document_has_an_example_of_every_model_that_can_be_sent(client: Client) -> None:
    route = client.document()["paths"]["/v1/sentiment"]["post"]
    examples = route["requestBody"]["content"]["application/json"]["examples"]
    assert list(examples) == ["mosi"]
    assert "score" in client.predict("sentiment", examples["mosi"]["value"], model="mosi")


@pytest.mark.parametrize("operation", ["embed"])
def test_files(client: Client, red: Path, operation: str) -> None:
    expected = client.predict("colours", {"image": red.read_bytes()}, operation=operation)
    assert int(np.argmax(expected["embedding"])) == 0
    for one in ({"image": red}, {"image": red, "text": None}):
        assert client.predict("colours", one, operation=operation)["embedding"] == expected["embedding"]
    many = [{"image": red}, {"image": red.read_bytes()}, {"text": "red"}, {"image": b"none"}]
    *good, bad = client.predict_many("colours", many, operation=operation)
    assert [one["embedding"] for one in good if isinstance(one, dict)][:2] == [expected["embedding"]] * 2
    assert isinstance(bad, InputError)
    assert bad.field == "items[3].image"


def test_addressing(client: Client) -> None:
    address = {"model": "mosi", "version": "1", "adapter": "linear"}
    for one in (item(), rows(1)[0]):
        assert client.predict("sentiment", one, **address)["model"] == "mosi"
        for name in address:
            with pytest.raises(NotFound):
                client.predict("sentiment", one, **{**address, name: "9"})
    with pytest.raises(InputError) as caught:
        client.predict("sentiment", item(), version="1")
    assert caught.value.field == "model"


def test_bad_items_name_their_field(client: Client) -> None:
    with pytest.raises(InputError, match="audio") as caught:
        client.predict("sentiment", {**item(), "audio": [["loud"]]})
    assert caught.value.field == "audio"


@pytest.mark.parametrize("value", [math.nan, [[math.inf]], {1, 2}, object(), np.array([math.nan])])
def test_what_json_cannot_hold_is_not_sent(client: Client, value: Any) -> None:
    with pytest.raises(InputError, match="JSON"):
        client.predict("sentiment", {"text": value})


def test_file_that_cannot_be_read(client: Client, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read") as caught:
        client.predict("colours", {"image": tmp_path / "absent.png"}, operation="embed")
    assert caught.value.field == "image"
    with pytest.raises(InputError, match="cannot be read") as caught:
        client.predict_many("colours", [{"text": "red"}, {"image": tmp_path}], operation="embed")
    assert caught.value.field == "items[1].image"


# Operations


def test_models_and_operations(client: Client) -> None:
    assert [model["name"] for model in client.models()] == ["colours", "mosi"]
    assert client.model("mosi")["parity"]["passed"]
    with pytest.raises(NotFound):
        client.model("nobody")
    assert client.live() is True
    assert client.ready() is True
    assert "# HELP" in client.metrics()


# Retrieval


def test_retrieval(client: Client, red: Path) -> None:
    blue = picture(10, 10, 250)
    put = client.put_item("things", "r", {"image": red}, metadata={"kind": "file", "n": [1]})
    assert (put["id"], put["modality"], put["metadata"]) == ("r", "image", {"kind": "file", "n": [1]})
    client.put_item("things", "w", {"text": "green"}, metadata={"kind": "word"}, model="colours")
    lines = [{"id": "b", "image": blue}, b'{"id": "c", "text": "blue"}', b"no JSON", {"text": "red"}]
    *good, broken, nameless = client.put_items("things", lines)
    assert [one["id"] for one in good if isinstance(one, dict)] == ["b", "c"]
    assert isinstance(broken, InputError)
    assert isinstance(nameless, InputError)
    assert nameless.field == "items[3].id"

    def found(*arguments: Any, **options: Any) -> list[str]:
        return [hit["id"] for hit in client.search("things", *arguments, **options)["hits"]]

    assert found({"text": "red"}, top_k=1) == ["r"]
    assert found({"image": red}, modality="text", top_k=3, filter={"kind": "word"}) == ["w"]
    assert set(found({"image": blue}, top_k=2, model="colours")) == {"b", "c"}
    assert found({"id": "b"}, top_k=1) == ["c"]
    page = client.items("things", limit=3)
    assert ([one["id"] for one in page["items"]], page["next"]) == (["b", "c", "r"], "r")
    page = client.items("things", after="r")
    assert ([one["id"] for one in page["items"]], page["next"]) == (["w"], None)
    assert client.get_item("things", "w")["metadata"] == {"kind": "word"}
    assert client.delete_item("things", "w") is True
    assert client.delete_item("things", "w") is False
    with pytest.raises(NotFound):
        client.get_item("things", "w")
    assert [(one["index"], one["items"]) for one in client.indexes()] == [("things", 3)]
    arrays = {"id": np.array(["d", "e"]), "text": np.array(["red", ""]), "metadata": np.array(['{"n": 1}', ""])}
    first, second = client.put_arrays("things", arrays)
    assert isinstance(first, dict)
    assert isinstance(second, InputError)
    with pytest.raises(InputError, match="holds objects"):
        client.put_arrays("things", {"id": np.array([object()])})
    assert client.get_item("things", "d")["metadata"] == {"n": 1}
    assert client.rebuild_index("things")["index"] == "things"
    assert client.get_index("things")["items"] == 4
    assert client.delete_index("things")["deleted"] is True
    with pytest.raises(NotFound):
        client.search("things", {"text": "red"})


def test_ids_stay_inside_their_index(client: Client) -> None:
    client.put_item("named", "witness", {"text": "red"})
    for id in NAMES:
        assert client.put_item("named", id, {"text": "red"})["id"] == id
        assert client.get_item("named", id)["id"] == id
    assert [one["id"] for one in client.items("named")["items"]] == sorted([*NAMES, "witness"])
    for id in NAMES:
        assert client.delete_item("named", id) is True
    assert [one["id"] for one in client.items("named")["items"]] == ["witness"]
    for index in ("..", ".", "%2e%2e"):
        with pytest.raises(InputError):
            client.delete_index(index)
    client.delete_index("named")


# Errors


@pytest.mark.parametrize("kind", STATUS, ids=lambda kind: kind.__name__)
def test_every_error_arrives_as_it_was(
    server: Running, client: Client, monkeypatch: pytest.MonkeyPatch, kind: type[ServiceError]
) -> None:
    error = kind("this is why", "audio") if issubclass(kind, InputError) else kind("this is why")
    if isinstance(error, Overloaded | NotReady):
        error.retry_after = 7.0

    async def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(server.service, "predict", fail)
    with pytest.raises(kind) as caught:
        client.predict("sentiment", item(), timeout_ms=5000)
    assert type(caught.value) is kind
    assert str(caught.value) == "this is why"
    assert vars(caught.value) == vars(error)


def test_deadline_that_passes_at_the_server(server: Running, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    async def late(_: object, __: object, until: float) -> None:
        asked.append(until)
        raise DeadlineExceeded("too late")

    monkeypatch.setattr(server.service, "predict", late)
    with pytest.raises(DeadlineExceeded):
        client.predict("sentiment", item(), timeout_ms=20_000)
    assert len(asked) == 1
    assert asked[0] is not None


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense", "ftp://127.0.0.1", "http://nobody.invalid"])
def test_no_server(connect: Connect, url: str) -> None:
    with pytest.raises(Unreachable, match=f"no server answers at {url}"):
        connect(url).live()


@pytest.mark.parametrize(
    "arguments",
    [
        {"url": "http://[::1"},
        {"tries": 0},
        {"timeout_ms": 0},
        {"timeout_ms": math.inf},
        {"timeout_ms": math.nan},
        {"api_key": "two\nlines"},
        {"api_key": "ключ"},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_arguments_that_cannot_be(kind: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        kind(**{"url": "http://127.0.0.1:1", **arguments})


@pytest.mark.parametrize("options", [{"timeout_ms": 0}, {"timeout_ms": math.nan}, {"request_id": "a\r\nb"}], ids=str)
def test_options_that_cannot_be(client: Client, options: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        client.predict("sentiment", item(), **options)
    assert [caught.value.field] == list(options)


def test_unknown_option(client: Client) -> None:
    with pytest.raises(TypeError, match="modell"):
        client.predict("sentiment", item(), modell="mosi")  # type: ignore[call-arg]


# Both


def test_many_at_once(server: Running) -> None:
    url, many = str(server.client.base_url), items(5)

    async def gathered() -> list[Any]:
        async with AsyncClient(url, trust_env=False) as client:
            return await asyncio.gather(*(client.predict("sentiment", many[n % 5]) for n in range(50)))

    with Client(url, trust_env=False) as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: client.predict("sentiment", many[n % 5]), range(50)))
    for found in (answers, asyncio.run(gathered())):
        assert [one["score"] for one in found] == pytest.approx(SCORES * 10, abs=1e-5)


class Quick:
    """A server of empty answers, each within 5 ms; it notes how many connections there were at once."""

    def __init__(self) -> None:
        self.most = 0
        self._open: set[asyncio.StreamWriter] = set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        self.most = max(self.most, len(self._open))
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                await asyncio.sleep(random.uniform(0, 0.005))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                await writer.drain()
        self._open.remove(writer)
        writer.close()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[AsyncClient]:
        """A client of it that may have three connections."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        url = "http://{}:{}".format(*server.sockets[0].getsockname())
        async with server:
            async with AsyncClient(url, limits=httpx.Limits(max_connections=3), trust_env=False) as client:
                yield client
            for writer in self._open:
                writer.close()
            while self._open:
                await asyncio.sleep(0.001)


def test_cancelled_requests_leave_their_connections_to_others() -> None:
    async def ask() -> list[bool]:
        async with Quick().client() as client:
            for _ in range(200):
                asking = [asyncio.create_task(client.live()) for _ in range(6)]
                await asyncio.sleep(random.uniform(0, 0.006))
                for task in asking:
                    task.cancel()
                await asyncio.gather(*asking, return_exceptions=True)
            return [await client.live(timeout_ms=PATIENCE * 1000) for _ in range(5)]

    assert asyncio.run(ask()) == [True] * 5


def test_no_more_connections_than_asked_for() -> None:
    server = Quick()

    async def ask() -> None:
        async with server.client() as client:
            assert all(await asyncio.gather(*(client.live() for _ in range(30))))
            async with client._places, client._places, client._places:
                with pytest.raises(DeadlineExceeded, match="did not answer"):
                    await client.live(timeout_ms=10)

    asyncio.run(ask())
    assert server.most == 3


def test_async_errors_wait_to_be_awaited() -> None:
    """So that `gather` sees them."""

    async def ask() -> list[Any]:
        async with AsyncClient("http://127.0.0.1:1") as client:
            return await asyncio.gather(client.predict("x", {"a": math.nan}), return_exceptions=True)

    (error,) = asyncio.run(ask())
    assert isinstance(error, InputError)


def test_every_method_is_in_the_table_and_says_what_it_does() -> None:
    told = {name for name, value in vars(Routes).items() if isinstance(value, Route)}
    assert {n for kind in (Client, AsyncClient) for n in vars(kind) if n[0] != "_"} == {"close", "aclose"}
    assert all(inspect.getdoc(getattr(Client, name)) for name in told)
    assert inspect.signature(Client("http://127.0.0.1:1").predict) == inspect.signature(Client.predict)


def test_no_route_is_forgotten(server: Running) -> None:
    """What the server offers of models and indexes, the client can ask for."""
    asked = {
        ("get", "/v1/models"): "models",
        ("get", "/v1/models/{name}"): "model",
        ("get", "/v1/retrieval"): "indexes",
        ("get", "/v1/retrieval/{index}"): "get_index",
        ("delete", "/v1/retrieval/{index}"): "delete_index",
        ("post", "/v1/retrieval/{index}/rebuild"): "rebuild_index",
        ("get", "/v1/retrieval/{index}/items"): "items",
        ("put", "/v1/retrieval/{index}/items"): "put_items",
        ("get", "/v1/retrieval/{index}/items/{id}"): "get_item",
        ("put", "/v1/retrieval/{index}/items/{id}"): "put_item",
        ("delete", "/v1/retrieval/{index}/items/{id}"): "delete_item",
        ("post", "/v1/retrieval/{index}/search"): "search",
    }
    paths = server.client.get("/openapi.json").json()["paths"]
    offered = {(m, p) for p, ms in paths.items() for m in ms if p.startswith(("/v1/models", "/v1/retrieval"))}
    assert offered == set(asked)
    assert all(isinstance(vars(Routes)[name], Route) for name in asked.values())


def test_needs_no_server_package() -> None:
    """httpx, numpy and what `wander` itself needs."""
    script = (
        "import sys; absent = ('fastapi', 'starlette', 'onnxruntime', 'orjson', 'uvicorn', 'PIL', 'tokenizers')\n"
        "sys.modules.update(dict.fromkeys(absent))\n"
        "import serving.client\n"
        "own = {n for n in sys.modules if n.partition('.')[0] in ('serving', 'wander', 'export')}\n"
        "print(*sorted(n for n in own if not n.startswith('serving.client')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["serving", "serving.wire", "wander", "wander.errors", "wander.signature"]
