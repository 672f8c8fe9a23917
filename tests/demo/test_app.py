"""What of the page is let through, what is not, and when it is there at all."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.app import create_app
from serving.settings import Settings
from tests.demo.conftest import PATIENCE, Start
from tests.serving.building import KEY, KEYS, running
from wander.errors import UsageError

pytest.importorskip("gradio", reason="the extra demo is not installed")
MAX_BODY = 200_000


@pytest.fixture(scope="module")
def folder(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(tiny, tmp_path_factory.mktemp("own") / "models"))


@pytest.fixture(scope="module")
def visitor(start: Start, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Someone without a key, at a server that wants one, with the page loaded."""
    options = ("--port", "0", "--demo", "--model-control", "explicit", "--load", "mosi,iemocap")
    more = ("--max-body-bytes", str(MAX_BODY), "--indexes", tmp_path_factory.mktemp("indexes"))
    url = start("serve", folder, *options, *more, WANDER_KEYS=KEYS, WANDER_DEMO_KEY=KEY)
    with httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False, follow_redirects=True) as client:
        assert client.get("/demo").status_code == 200
        yield client


def titles(page: str) -> list[str]:
    found = re.search(r"window\.gradio_config = (\{.*?\});</script>", page, re.DOTALL)
    assert found
    return [c["props"]["label"] for c in json.loads(found[1])["components"] if c["type"] == "tabitem"]


def test_a_tab_for_every_task_that_there_are_models_of(visitor: httpx.Client) -> None:
    assert titles(visitor.get("/demo/").text) == ["Sentiment", "Emotion"]


def test_whoever_reaches_the_page_uses_its_key_and_does_not_see_it(visitor: httpx.Client) -> None:
    assert visitor.get("/v1/models").status_code == 401
    assert KEY not in visitor.get("/demo/").text + visitor.get("/demo/config").text


def test_policy_of_the_page(visitor: httpx.Client) -> None:
    answer = visitor.get("/demo/")
    policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
    assert "unsafe" not in policy["script-src"]
    assert not re.search(r"https?:", answer.headers["content-security-policy"])
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "manifest.json" not in answer.text


def test_only_what_the_page_needs_is_passed_on(visitor: httpx.Client) -> None:
    for path in (
        "login", "monitoring", "gradio_api/openapi.json", "gradio_api/runs", "gradio_api/vibe-code/", "manifest.json",
        "gradio_api/proxy=https://example.org", "gradio_api/file=https://example.org/a", "gradio_api/file=etc/passwd",
        "gradio_api/file=http%3A//example.org", "gradio_api/dev/reload", "gradio_api/deep_link",
    ):  # fmt: skip
        assert visitor.get(f"/demo/{path}").status_code == 404, path
    for path in ("login", *(f"gradio_api/{one}" for one in ("run/x", "call/x", "vibe-edit", "process_recording"))):
        assert visitor.post(f"/demo/{path}", json={"data": []}).status_code == 404, path
    assert visitor.get("/demo/gradio_api/file=/etc/passwd").status_code == 403


class Watched(BaseHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """A server that must not be asked."""
    Watched.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Watched)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/x.npz"
    server.shutdown()
    thread.join()
    server.server_close()


def test_no_address_is_fetched_and_no_file_read_that_was_not_uploaded(visitor: httpx.Client, elsewhere: str) -> None:
    join, own = "/demo/gradio_api/queue/join", f"{Path.cwd()}/pyproject.toml"
    for path in (elsewhere, "/etc/passwd", "../../etc/passwd", "", 5, own, "file:///etc/passwd"):
        data: dict[str, Any] = {"path": path, "meta": {"_type": "gradio.FileData"}}
        for given in ([data], [{"nested": [data]}]):
            asked = {"data": given, "fn_index": 0, "session_hash": "s", "event_data": None, "trigger_id": None}
            assert visitor.post(join, json=asked).status_code == 422, path
    assert visitor.post(join, content=b"{").status_code == 422
    assert visitor.post(join, content=b"[" * 100_000).status_code == 422
    assert Watched.asked == []
    upload = visitor.post("/demo/gradio_api/upload", files={"files": ("a.npz", b"0")})
    (uploaded,) = upload.json()
    asked = {"data": [{"path": uploaded, "meta": {"_type": "gradio.FileData"}}], "fn_index": 0, "session_hash": "s"}
    assert visitor.post(join, json=asked).status_code == 200


def test_uploads_are_bounded_as_every_body_is(visitor: httpx.Client) -> None:
    sent = {"files": ("a.npz", b"0" * (MAX_BODY + 1))}
    assert visitor.post("/demo/gradio_api/upload", files=sent).status_code == 413


def test_page_follows_the_models(visitor: httpx.Client, folder: Path) -> None:
    owner = {"authorization": f"Bearer {KEY}"}
    assert visitor.post("/v2/repository/models/iemocap/unload", headers=owner, json={}).status_code == 200
    assert titles(visitor.get("/demo/").text) == ["Sentiment"]
    assert visitor.post("/v2/repository/models/iemocap/load", headers=owner, json={}).status_code == 200
    assert titles(visitor.get("/demo/").text) == ["Sentiment", "Emotion"]


def test_beside_a_server_with_its_key(visitor: httpx.Client, start: Start) -> None:
    url = start("demo", "--url", str(visitor.base_url), "--port", "0", WANDER_KEY=KEY)
    page = httpx.get(url, timeout=PATIENCE, trust_env=False, follow_redirects=True)
    assert page.url.path == "/demo/"
    assert titles(page.text) == ["Sentiment", "Emotion"]


def test_beside_a_server_with_a_wrong_key(visitor: httpx.Client) -> None:
    command = [sys.executable, "-m", "wander", "demo", "--url", str(visitor.base_url), "--key", "wander_wrong"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_a_folder_and_an_address_are_too_much() -> None:
    command = [sys.executable, "-m", "wander", "demo", "models", "--url", "http://127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2


def test_without_the_option_there_is_no_page(tiny: Path) -> None:
    with running(Settings(models=tiny)) as server:
        for path in ("/demo", "/demo/", "/demo/config"):
            assert server.client.get(path).status_code == 404


def test_serving_without_it_imports_no_gradio() -> None:
    script = (
        "import sys; from serving.app import create_app; from serving.settings import Settings; import serving.cli;"
        "create_app(Settings()); assert 'gradio' not in sys.modules and 'demo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_settings_that_cannot_be(tiny: Path) -> None:
    with pytest.raises(UsageError, match="--url"):
        create_app(Settings(models=tiny, demo=True, workers=2))
    with pytest.raises(UsageError, match="--demo-key"):
        create_app(Settings(models=tiny, demo=True, keys=KEYS))
