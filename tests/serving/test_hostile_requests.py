"""Bodies and names that are meant to do harm, over HTTP: each has its answer, and the server goes on."""

from __future__ import annotations

import gzip
import io
import json
import os
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.auth.access import HTTP, Role
from serving.index import Indexes, Origin
from serving.index._folder import NAME
from serving.parsing import MAX_CONTAINERS, parse_json
from serving.settings import Settings
from tests.serving.auth.test_keys import KEY, entry
from tests.serving.building import Running, item, npz, random_rows, running
from wander.errors import InputError, MalformedBody, TooLarge, WanderError

INFER = "/v2/models/mosi/infer"
JSON = {"content-type": "application/json"}
LINES = {"content-type": "application/x-ndjson"}
FORM = {"content-type": "multipart/form-data; boundary=x"}
LIMIT = 4 << 20
SECRET = "what nobody may see"
PROBLEM = "application/problem+json"


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Whoever asks may do everything; what they name stands inside of `inside`, beside something to steal."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "secret.json").write_text(SECRET)
    (folder / "inside").mkdir()
    (folder / "models").symlink_to(models)
    keys = json.dumps([entry(roles=[role.value for role in Role])])
    settings = Settings(
        models=folder / "models",
        indexes=folder / "inside",
        keys=keys,
        model_control="explicit",
        max_body_bytes=LIMIT,
        max_length=64,
    )
    with running(settings) as started:
        started.client.headers["Authorization"] = f"Bearer {KEY}"
        yield started


def refused(answer: httpx.Response, *statuses: int) -> str:
    """The detail of a refusal, in the form of its protocol."""
    assert answer.status_code in statuses, answer.text[:300]
    if answer.request.url.path.startswith("/v2"):
        return str(answer.json()["error"])
    assert answer.headers["content-type"] == PROBLEM
    return str(answer.json()["detail"])


# JSON


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
@pytest.mark.parametrize("depth", [1_000, 100_000])
def test_deep_json(server: Running, opening: bytes, depth: int) -> None:
    for path in ("/v1/sentiment", "/v1/retrieval/a/search", INFER, "/v2/repository/index"):
        body = b'{"text":' + opening * depth
        refused(server.client.post(path, content=body, headers=JSON), 400, 413)
    closed = b"[" * 900 + b"]" * 900
    body = b'{"text":' + closed + b',"audio":' + closed + b',"vision":' + closed + b"}"
    refused(server.client.post("/v1/sentiment", content=body, headers=JSON), 422)


def test_wide_json(server: Running) -> None:
    """Of many small lists, each takes some thirty times the memory of its text."""
    many = b"[" + b"[]," * (MAX_CONTAINERS + 1) + b"[]]"
    assert len(many) < LIMIT
    for body in (b'{"text":' + many + b"}", b'{"items":' + many.replace(b"[]", b"{}") + b"}"):
        detail = refused(server.client.post("/v1/sentiment", content=body, headers=JSON), 413)
        assert str(MAX_CONTAINERS) in detail
    tensors = b'{"inputs":[{"name":"text","datatype":"FP32","shape":[1],"data":' + many + b"}]}"
    refused(server.client.post(INFER, content=tensors, headers=JSON), 413)
    head = {"inference-header-content-length": str(len(tensors))}
    refused(server.client.post(INFER, content=tensors + b"1234", headers=head), 413)
    answer = server.client.put("/v1/retrieval/a/items", content=b'{"id":' + many + b"}", headers=LINES)
    assert answer.status_code in (200, 404)
    if answer.status_code == 200:
        assert answer.json()["results"][0]["error"]["status"] == 413


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda c: st.lists(c),
        max_leaves=9,
    )
)
def test_json_is_read_as_it_is(value: object) -> None:
    assert parse_json(json.dumps(value).encode(), "it") == value


@given(st.binary())
def test_what_is_no_json(body: bytes) -> None:
    try:
        expected = json.loads(body)
    except (ValueError, RecursionError):
        with pytest.raises(MalformedBody, match="the line is not JSON"):
            parse_json(body, "the line")
    else:
        try:
            assert parse_json(body, "the line") == expected
        except MalformedBody:  # of numbers and encodings, the standard library reads more than there are
            assert body


def test_brackets_are_counted_wherever_they_stand() -> None:
    limit = b'"' + b"[" * MAX_CONTAINERS + b'"'
    assert len(parse_json(limit, "it")) == MAX_CONTAINERS
    with pytest.raises(TooLarge):
        parse_json(b'["' + b"[" * MAX_CONTAINERS + b'"]', "it")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=200), media=st.sampled_from([JSON, LINES, FORM, {"content-type": "text/plain"}, {}]))
def test_any_bytes(server: Running, body: bytes, media: dict[str, str]) -> None:
    for method, path in (("POST", "/v1/sentiment"), ("POST", "/v1/food"), ("PUT", "/v1/retrieval/a/items/b")):
        answer = server.client.request(method, path, content=body, headers=media)
        assert answer.status_code in (400, 404, 413, 415, 422)
        assert answer.headers["content-type"] == PROBLEM


# Tensors


def test_sides_that_are_too_long(models: Path, server: Running) -> None:
    """A sequence is as long as its model says; a tensor that may be longer is as long as the server says."""
    long = {**item(), "text": [[0.0] * 4] * 5000}
    assert "5000" in refused(server.post("/v1/sentiment", json=long), 413, 422)
    wide = {**item(), "text": [[0.0] * 5000] * 3}
    refused(server.post("/v1/sentiment", json=wide), 413, 422)


# Archives


def bomb(size: int) -> bytes:
    """Zeros, packed a thousandfold."""
    file = io.BytesIO()
    np.savez_compressed(file, text=np.zeros((1, size // 16, 4), np.float32))
    return file.getvalue()


def lying(data: bytes, claimed: int) -> bytes:
    """A zip that says of its member that it is smaller than it is."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("text.npy", data)
    raw = bytearray(file.getvalue())
    at = raw.rindex(b"PK\x01\x02")
    raw[at + 24 : at + 28] = claimed.to_bytes(4, "little")
    return bytes(raw)


def many_members(count: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(count):
            archive.writestr(f"a{number}.npy", b"")
    return file.getvalue()


def header(shape: str, data: bytes = b"") -> bytes:
    """An .npz whose array claims a shape."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return lying(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data, 128 + len(data))


@pytest.mark.parametrize(
    ("archive", "statuses"),
    [
        (bomb(64 << 20), (413,)),
        (bomb(512 << 20), (413,)),
        (lying(bytes(16 << 20), 100), (400,)),
        (many_members(65), (413,)),
        (many_members(5000), (413,)),
        (header("(99999999, 99999999)"), (400,)),
        (header("(2, 3)"), (400,)),
        (header("(0, 99999999999)"), (400, 422)),
        (header("(-1, 4)"), (400,)),
        (header("(1,) * 999999999"), (400,)),
        (npz(text=np.zeros(2, "S9")), (400,)),
        (b"PK\x05\x06" + b"\0" * 18, (422,)),
        (b"\x93NUMPY", (400,)),
        (b"", (400, 422)),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else str(value[0]),
)
def test_archives_over_http(server: Running, archive: bytes, statuses: tuple[int, ...]) -> None:
    assert len(archive) < LIMIT
    refused(server.post("/v1/sentiment", files={"file": ("a.npz", archive)}), *statuses)
    assert server.post("/v1/sentiment", json=item()).status_code == 200


def test_pickle_over_http(server: Running, tmp_path: Path) -> None:
    """Objects in an .npz are pickles, and a pickle can run anything when it is read."""

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    file = io.BytesIO()
    np.savez(file, text=np.array([Trap()], dtype=object), allow_pickle=True)
    refused(server.post("/v1/sentiment", files={"file": ("a.npz", file.getvalue())}), 400)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["gzip", "deflate"])
def test_compressed_bodies(server: Running, name: str) -> None:
    """A bomb is put out as soon as more has come out than a body may have."""
    packed = (gzip if name == "gzip" else zlib).compress(b" " * (256 << 20))
    assert len(packed) < LIMIT
    answer = server.client.post(INFER, content=packed, headers={**JSON, "content-encoding": name})
    assert str(LIMIT) in refused(answer, 413)
    for broken in (packed[:1000], b"", b"{}", packed[:-1]):
        answer = server.client.post(INFER, content=broken, headers={**JSON, "content-encoding": name})
        refused(answer, 400, 413)
    refused(server.client.post(INFER, content=packed, headers={**JSON, "content-encoding": "br"}), 415)


@pytest.mark.parametrize("shape", [[1 << 62], [1 << 40, 1 << 40], [0, 1 << 62], [-1], [1] * 40, [1, 3, 4]])
def test_tensors_that_claim_more_than_they_bring(server: Running, shape: list[int]) -> None:
    for more in ({"data": [1.0]}, {"parameters": {"binary_data_size": 4}}):
        body = json.dumps({"inputs": [{"name": "text", "datatype": "FP32", "shape": shape, **more}]}).encode()
        head = {"inference-header-content-length": str(len(body))}
        refused(server.client.post(INFER, content=body + b"1234", headers=head), 400, 413, 422)


# Forms


def part(name: str = "image", content: bytes = b"", more: bytes = b"", filename: str | None = "a") -> bytes:
    shown = f'; filename="{filename}"' if filename is not None else ""
    head = f'--x\r\nContent-Disposition: form-data; name="{name}"{shown}\r\n'.encode()
    return head + more + b"\r\n" + content + b"\r\n"


@pytest.mark.parametrize(
    ("body", "statuses"),
    [
        (part("text", b"t" * ((1 << 20) + 1), filename=None), (400,)),
        (part() * 3, (400,)),
        (b"".join(part(f"f{n}", filename=None) for n in range(40)), (400,)),
        (part(more=b"x: " + b"y" * 8192 + b"\r\n"), (400,)),
        (part(more=b"x: y\r\n" * 20), (400,)),
        (part(name="i" * 8192), (400,)),
        (part(content=b"z" * LIMIT), (413,)),
        (b"\r\n" * 10_000, (400, 404, 422)),
        (b"--x" + b"-" * 10_000, (400, 404, 422)),
        (part(), (400, 404, 422)),
    ],
    ids=["field", "files", "fields", "header", "headers", "name", "file", "preamble", "dashes", "end"],
)
def test_forms(server: Running, body: bytes, statuses: tuple[int, ...]) -> None:
    for path in ("/v1/food", "/v1/sentiment"):
        refused(server.client.post(path, content=body + b"--x--\r\n", headers=FORM), *statuses)


@pytest.mark.parametrize("boundary", ["", "x" * 300, '"', "x; boundary=y"])
def test_boundaries(server: Running, boundary: str) -> None:
    media = {"content-type": f"multipart/form-data; boundary={boundary}"}
    refused(server.client.post("/v1/food", content=b"--x--\r\n", headers=media), 400, 422)
    refused(server.client.post("/v1/food", content=b"--x--\r\n", headers={"content-type": "multipart/form-data"}), 400)


def test_forms_leave_nothing_on_disk(server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large file goes through a temporary one, never larger than the limit on bodies, which is gone afterwards."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    most = 0

    def body() -> Iterator[bytes]:
        nonlocal most
        yield part(content=b"").removesuffix(b"\r\n")
        for _ in range(64):
            yield bytes(1 << 18)
            most = max(most, sum(path.stat().st_size for path in tmp_path.iterdir()))
            time.sleep(0.001)

    with suppress(httpx.WriteError, httpx.ReadError):  # the server may close while we send
        refused(server.client.post("/v1/food", content=body(), headers=FORM), 413)
    assert most <= LIMIT
    assert list(tmp_path.iterdir()) == []


# Names

NAMES = [
    "..", ".", "../secret.json", "..%2fsecret.json", "....//secret", "/etc/passwd", "//etc/passwd", "C:\\secret",
    "..\\secret.json", "a/../../secret.json", "a\0", "\0", "a\n", "a\rb", " ", "~", "$HOME", "-rf", ".hidden",
    "models.rejected",
    "ａ", "．．", "a\u202eb", "a\u200d", "é", "e\u0301", "İ", "\ufeff", "\U0001f600", "%2e%2e%2f", "*", "?", "x" * 1000,
    "CON", "aux.json", "secret.json", "'; DROP TABLE item; --", "a;b", "inside", "{name}", "%s%n",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_stay_in_their_folder(server: Running, name: str) -> None:
    """Every route that takes a name, with names that lead elsewhere: none is found, nothing is made or removed."""
    folder = server.service.settings.indexes.parent
    before = sorted(path for path in folder.rglob("*"))
    for (method, template), _ in HTTP.items():
        if "{" not in template:
            continue
        path = template
        for parameter in ("{name}", "{version}", "{index}", "{id:path}", "{file}"):
            path = path.replace(parameter, "".join(f"%{byte:02x}" for byte in name.encode()))
        media = LINES if (method, template) == ("PUT", "/v1/retrieval/{index}/items") else JSON
        body = json.dumps({"id": "a", "text": "x"}) if method in ("POST", "PUT") else None
        answer = server.client.request(method, path, content=body, headers=media)
        assert answer.status_code in (400, 404, 405, 413, 422), (template, answer.text[:300])
        assert SECRET not in answer.text
    assert sorted(path for path in folder.rglob("*")) == before


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("field", ["model", "version", "adapter"])
def test_names_in_a_body(server: Running, field: str, name: str) -> None:
    more = {"model": "mosi"} if field != "model" else {}
    for answer in (
        server.post("/v1/sentiment", json={**item(), **more, field: name}),
        server.post("/v1/sentiment", json=item(), params={**more, field: name}),
        server.post("/v1/retrieval/some/search", json={"text": "x", **more, field: name}),
    ):
        refused(answer, 404, 422)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_of_models_that_are_loaded(server: Running, name: str) -> None:
    """As the control plane is asked, whatever the protocol."""
    for version in (None, "1", name):
        with pytest.raises(WanderError):
            server.service.repository.load_model(name, version)
    with pytest.raises(WanderError):
        server.service.repository.load_model("mosi", name)
    with pytest.raises(WanderError):
        server.service.repository.unload_model(name)
    assert {model.name for model in server.service.repository.models} == {"mosi", "iemocap"}


@pytest.mark.parametrize("name", [name for name in NAMES if not NAME.fullmatch(name)], ids=ascii)
def test_names_of_indexes_that_are_made_and_removed(tmp_path: Path, name: str) -> None:
    """As a model that makes vectors would have it; the names that are left are plain ones."""
    (tmp_path / "indexes").mkdir()
    (tmp_path / "kind").write_text("embedded")
    indexes = Indexes(tmp_path / "indexes")
    for change in (indexes.get, indexes.remove, lambda name: indexes.ensure(name, Origin("m", "1", "a", "0"), 3)):
        with pytest.raises(InputError, match="name of an index"):
            change(name)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["indexes", "kind"]


def test_rows_of_an_archive_are_items(server: Running) -> None:
    """What is harmless still works here."""
    assert server.post("/v1/sentiment", files={"file": npz(**random_rows(2))}).status_code == 200
