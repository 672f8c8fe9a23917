"""`wander index` against a real server."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from serving.index.cli import LINES, chunks
from serving.settings import Settings
from tests.serving.building import KEY, KEYS, Running, running
from tests.serving.index.colours import picture, publish, registered
from wander.__main__ import main
from wander.errors import EngineError

Run = Callable[..., tuple[int, Any, str]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with registered():
        folder = tmp_path_factory.mktemp("models")
        publish(folder / "colours")
        yield folder


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(Settings(models=models, indexes=tmp_path_factory.mktemp("indexes"))) as started:
        yield started


@pytest.fixture
def run(server: Running, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Gives the exit code, what `--json` printed (or the text), and the lines of stderr."""
    monkeypatch.setenv("WANDER_URL", str(server.client.base_url))

    def started(*arguments: object) -> tuple[int, Any, str]:
        with pytest.raises(SystemExit) as ended:
            main(["index", *map(str, arguments)])
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), json.loads(out) if "--json" in arguments else out, err

    return started


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    files = {"a red one.png": (250, 9, 9), "green?.png": (9, 250, 9), "blue.png": (9, 9, 250)}
    for name, colour in files.items():
        (tmp_path / name).write_bytes(picture(*colour))
    return [tmp_path / name for name in files]


def test_fill_search_and_list(run: Run, pictures: list[Path], tmp_path: Path) -> None:
    assert run("add", "things", *pictures, "--json") == (0, {"index": "things", "added": 3, "failed": []}, "")
    code, found, _ = run("search", "things", "red", "--json")
    assert (code, found["mode"]) == (0, "exact")
    assert found["hits"][0]["id"] == "a red one.png"
    lines = [{"id": f"w{number}", "text": "green", "metadata": {"n": number, "kind": "word"}} for number in range(70)]
    lines.append({"id": "w.png", "image": base64.b64encode(pictures[2].read_bytes()).decode()})
    (tmp_path / "items.jsonl").write_text("\n\n".join(map(json.dumps, lines)))
    code, out, err = run("add", "things", "--jsonl", tmp_path / "items.jsonl")
    assert (code, out, err) == (0, "71 items added to things\n", "")
    code, out, _ = run("search", "things", "--image", pictures[1], "--modality", "text", "--filter", "n=3")
    assert code == 0
    assert "w3 " in out
    assert "w4 " not in out
    _, found, _ = run("search", "things", "--image", pictures[1], "--filter", "kind=word", "--top-k", 5, "--json")
    assert len(found["hits"]) == 5
    _, listed, _ = run("list", "things", "--json")
    assert len(listed["items"]) == 74
    _, listed, _ = run("list", "--json")
    assert [(one["index"], one["items"]) for one in listed["indexes"]] == [("things", 74)]
    assert "colours" in run("list")[1]
    assert "green?.png" in run("list", "things")[1]


def test_rebuild(run: Run, pictures: list[Path]) -> None:
    run("add", "again", *pictures)
    code, out, err = run("rebuild", "again")
    assert (code, out, err) == (0, "again is rebuilt: 3 items, exact\n", "")
    code, found, _ = run("rebuild", "again", "--json")
    assert (code, found["rebuild"]["stage"], found["items"]) == (0, "done", 3)
    assert run("rebuild", "again", "--no-wait")[:2] == (0, "again is being rebuilt: 3 items, exact\n")


def test_rebuild_that_fails(run: Run, pictures: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise EngineError("no space left")

    run("add", "full", *pictures)
    monkeypatch.setattr("serving.index.embedded.Embedded._rebuild", fail)
    code, out, err = run("rebuild", "full")
    assert (code, out) == (1, "")
    assert "full was not rebuilt: no space left" in err


def test_items_that_are_refused(run: Run, pictures: list[Path], tmp_path: Path) -> None:
    (tmp_path / "no image.png").write_bytes(b"no image")
    code, out, err = run("add", "others", pictures[0], tmp_path / "no image.png", "--json")
    assert code == 1
    assert out["added"] == 1
    assert [one["item"] for one in out["failed"]] == ["no image.png"]
    assert err.startswith("no image.png: image ")
    (tmp_path / "items.jsonl").write_text('{"id": "a", "text": "red"}\n\nno JSON\n{"text": "red"}')
    code, out, err = run("add", "others", "--jsonl", tmp_path / "items.jsonl")
    assert (code, out) == (1, "1 items added to others\n")
    assert [line.partition(":")[0] for line in err.splitlines()] == ["line 3", "line 4"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["add", "things"], 2, "name image or video files"),
        (["add", "things", "absent.png"], 2, "absent.png is no file"),
        (["add", "things", "a/x.png", "b/x.png"], 2, "several files are called x.png"),
        (["search", "things"], 2, "give either words, --image FILE or --video FILE"),
        (["search", "things", "red", "--image", "x.png"], 2, "give either words, --image FILE or --video FILE"),
        (["search", "things", "--image", "absent.png"], 2, "absent.png is no file"),
        (["search", "things", "red", "--filter", "kind"], 2, "FIELD=VALUE"),
        (["search", "nothing", "red"], 1, "there is no index 'nothing'"),
        (["search", "Things", "red"], 1, "the name of an index"),
        (["search", "things/../x", "red"], 1, "no route"),
        (["rebuild", "nothing"], 1, "there is no index 'nothing'"),
        (["list", "nothing"], 1, "there is no index 'nothing'"),
        (["list", "--url", "http://127.0.0.1:1"], 2, "no server answers at http://127.0.0.1:1"),
        (["list", "--url", "nonsense"], 2, "no server answers at nonsense"),
    ],
)
def test_errors_are_one_line(run: Run, arguments: list[str], code: int, message: str) -> None:
    ended, out, err = run(*arguments)
    assert (ended, out) == (code, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", b"[]"], ids=str)
def test_server_that_is_none_of_ours(run: Run, answer: bytes) -> None:
    def serve(listening: socket.socket) -> None:
        with suppress(OSError):  # of the socket that is shut down in the end
            while True:
                connection, _ = listening.accept()
                with connection:
                    connection.recv(65_536)
                    connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as other:
        thread = threading.Thread(target=serve, args=(other,))
        thread.start()
        code, out, err = run("list", "--url", f"http://127.0.0.1:{other.getsockname()[1]}")
        other.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert "Traceback" not in err


def test_key_comes_from_the_environment(
    models: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(Settings(models=models, indexes=tmp_path / "indexes", keys=KEYS)) as guarded:
        monkeypatch.setenv("WANDER_URL", str(guarded.client.base_url))
        code, _, err = run("list")
        assert (code, "a key is needed" in err) == (1, True)
        monkeypatch.setenv("WANDER_KEY", KEY)
        code, out, _ = run("list", "--json")
        assert (code, out) == (0, {"indexes": []})


def test_chunks() -> None:
    lines = [b"x\n", b"\n", b"  \n", *[b"y\n"] * LINES]
    groups = list(chunks(lines))
    assert [len(group) for group in groups] == [LINES, 1]
    assert groups[0][:2] == [(1, b"x"), (4, b"y")]
    huge = b"z" * (8 << 20)
    assert [len(group) for group in chunks([b"a", huge, b"b", huge])] == [1, 1, 1, 1]
    assert list(chunks([])) == []
