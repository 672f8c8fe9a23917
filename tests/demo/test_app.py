"""What of the page is let through, what is not, and when it is there at all."""

from __future__ import annotations

import json
import re
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
from tests.serving.auth.test_keys import entry
from tests.serving.building import KEY, KEYS, Linear, Running, publish, running
from wander.errors import UsageError

pytest.importorskip("gradio", reason="the extra demo is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def shown(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    settings = Settings(models=models, indexes=tmp_path_factory.mktemp("indexes"), demo=True)
    with running(settings) as started:
        started.client.timeout = httpx.Timeout(60)
        assert started.client.get("/demo").status_code == 200
        yield started


def config(page: str) -> dict[str, Any]:
    found = re.search(r"window\.gradio_config = (\{.*?\});</script>", page, re.DOTALL)
    assert found
    value: dict[str, Any] = json.loads(found[1])
    return value


def titles(page: str) -> list[str]:
    return [c["props"]["label"] for c in config(page)["components"] if c["type"] == "tabitem"]


def test_a_tab_for_every_task_that_there_are_models_of(shown: Running) -> None:
    assert titles(shown.client.get("/demo").text) == ["Sentiment", "Emotion"]


def test_policy_of_the_page(shown: Running) -> None:
    answer = shown.client.get("/demo/")
    policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
    assert "unsafe" not in policy["script-src"]
    assert not re.search(r"https?:", answer.headers["content-security-policy"])
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "manifest.json" not in answer.text


def test_only_what_the_page_needs_is_passed_on(shown: Running) -> None:
    for path in (
        "login", "monitoring", "gradio_api/openapi.json", "gradio_api/runs", "gradio_api/vibe-code/", "manifest.json",
        "gradio_api/proxy=https://example.org", "gradio_api/file=https://example.org/a", "gradio_api/file=etc/passwd",
        "gradio_api/file=http%3A//example.org", "gradio_api/dev/reload", "gradio_api/deep_link",
    ):  # fmt: skip
        assert shown.client.get(f"/demo/{path}").status_code == 404, path
    for path in (
        "login",
        "gradio_api/run/predict",
        "gradio_api/call/x",
        "gradio_api/vibe-edit",
        "gradio_api/process_recording",
    ):
        assert shown.client.post(f"/demo/{path}", json={"data": []}).status_code == 404, path
    assert shown.client.get("/demo/gradio_api/file=/etc/passwd").status_code == 403


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


def test_no_address_is_fetched_and_no_file_read_that_was_not_uploaded(shown: Running, elsewhere: str) -> None:
    join = "/demo/gradio_api/queue/join"
    for path in (
        elsewhere,
        "/etc/passwd",
        "../../etc/passwd",
        "",
        5,
        f"{Path.cwd()}/pyproject.toml",
        "file:///etc/passwd",
    ):
        data = {"path": path, "meta": {"_type": "gradio.FileData"}}
        for given in ([data], [{"nested": [data]}]):
            asked = {"data": given, "fn_index": 0, "session_hash": "s", "event_data": None, "trigger_id": None}
            assert shown.client.post(join, json=asked).status_code == 422, path
    assert shown.client.post(join, content=b"{").status_code == 422
    assert shown.client.post(join, content=b"[" * 100_000).status_code == 422
    assert Watched.asked == []


def test_uploads_are_bounded_as_every_body_is(models: Path) -> None:
    with running(Settings(models=models, demo=True, max_body_bytes=20_000)) as server:
        assert server.client.get("/demo", timeout=60).status_code == 200
        sent = {"files": ("a.npz", b"0" * 30_000)}
        assert server.client.post("/demo/gradio_api/upload", files=sent).status_code == 413


def test_without_the_option_there_is_no_page(server: Running) -> None:
    for path in ("/demo", "/demo/", "/demo/config"):
        assert server.client.get(path).status_code == 404


def test_serving_without_it_imports_no_gradio() -> None:
    script = (
        "import sys; from serving.app import create_app; from serving.settings import Settings; import serving.cli;"
        "create_app(Settings()); assert 'gradio' not in sys.modules and 'demo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_many_processes_cannot_hold_its_sessions(models: Path) -> None:
    with pytest.raises(UsageError, match="--url"):
        create_app(Settings(models=models, demo=True, workers=2))


def test_keys(models: Path) -> None:
    """Whoever reaches the page uses its key; without one there is no page."""
    with pytest.raises(UsageError, match="--demo-key"):
        create_app(Settings(models=models, demo=True, keys=json.dumps([entry()])))
    with running(Settings(models=models, demo=True, keys=KEYS, demo_key=KEY)) as server:
        page = httpx.get(f"{server.client.base_url}/demo", timeout=60, trust_env=False)
        assert titles(page.text) == ["Sentiment", "Emotion"]
        assert KEY not in page.text
        assert httpx.get(f"{server.client.base_url}/v1/models", trust_env=False).status_code == 401
    with running(Settings(models=models, demo=True, keys=KEYS, demo_key=KEY + "x")) as server:
        page = httpx.get(f"{server.client.base_url}/demo", timeout=60, trust_env=False)
        assert page.status_code == 502
        assert "key" in page.text


def test_page_follows_the_models(tmp_path: Path) -> None:
    publish(tmp_path / "models" / "mosi", Linear("sentiment"))
    with running(
        Settings(models=tmp_path / "models", demo=True, model_control="explicit", load="mosi", keys=KEYS, demo_key=KEY)
    ) as server:
        assert titles(server.client.get("/demo", timeout=60).text) == ["Sentiment"]
        publish(tmp_path / "models" / "iemocap", Linear("emotion"))
        assert server.post("/v2/repository/models/iemocap/load").status_code == 200
        assert titles(server.client.get("/demo", timeout=60).text) == ["Sentiment", "Emotion"]
