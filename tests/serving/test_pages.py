"""What browsers are told: headers, other sites, and the page of the documentation."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from serving.app import create_app
from serving.middleware import HARDENED
from serving.settings import Settings, origins
from tests.serving.auth.test_keys import KEY, entry
from tests.serving.building import Running, item, items, running
from wander.errors import UsageError

PAGE = "https://page.example"


# Headers


def test_every_answer_is_hardened(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of inference, of errors, and of what nobody foresaw."""
    answers = [
        server.client.get("/livez"),
        server.client.get("/metrics"),
        server.client.get("/v1/models"),
        server.client.get("/nothing"),
        server.client.delete("/v1/models"),
        server.post("/v1/sentiment", json=item()),
        server.post("/v1/sentiment", json={"items": items(2)}),
        server.post("/v1/sentiment", json={}),
    ]

    async def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(server.service, "predict", fail)
    answers.append(server.post("/v1/sentiment", json=item(), headers={"connection": "close"}))
    assert [answer.status_code for answer in answers] == [200, 200, 200, 404, 405, 200, 200, 422, 500]
    for answer in answers:
        assert {name: answer.headers.get_list(name) for name in HARDENED} == {n: [v] for n, v in HARDENED.items()}


def test_refusals_of_strangers_are_hardened(models: Path) -> None:
    with running(Settings(models=models, keys=json.dumps([entry()]))) as server:
        answer = server.client.get("/v1/models")
    assert answer.status_code == 401
    assert answer.headers["cache-control"] == "no-store"


# Other sites


@pytest.fixture(scope="module")
def shared(models: Path) -> Iterator[Running]:
    """A server that lets in the pages of one site, and needs keys."""
    settings = Settings(models=models, cors_origin=f"{PAGE}, http://localhost:3000", keys=json.dumps([entry()]))
    with running(settings) as started:
        yield started


def preflight(server: Running, origin: str, method: str = "POST", headers: str = "authorization,content-type") -> bool:
    """Whether a browser would let a page of that origin ask."""
    asked = {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
    answer = server.client.options("/v1/sentiment", headers=asked)
    assert answer.headers.get("access-control-allow-credentials") is None
    return answer.is_success and answer.headers.get("access-control-allow-origin") == origin


def test_no_other_site_may_ask(server: Running) -> None:
    assert not preflight(server, PAGE)
    answer = server.post("/v1/sentiment", json=item(), headers={"Origin": PAGE})
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_only_sites_that_are_named_may_ask(shared: Running) -> None:
    assert preflight(shared, PAGE)
    assert preflight(shared, "http://localhost:3000", "PUT", "x-request-timeout-ms")
    for other in ("https://evil.example", "http://page.example", f"{PAGE}.evil.example", f"{PAGE}:444", "null", "*"):
        assert not preflight(shared, other)
    assert not preflight(shared, PAGE, "PATCH")
    assert not preflight(shared, PAGE, headers="cookie")


def test_site_that_is_named_still_needs_a_key_and_may_read_what_is_wrong(shared: Running) -> None:
    for key, status in ((None, 401), (KEY, 200)):
        headers = {"Origin": PAGE} | ({"Authorization": f"Bearer {key}"} if key else {})
        answer = shared.post("/v1/sentiment", json=item(), headers=headers)
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert "retry-after" in answer.headers["access-control-expose-headers"].lower()
        assert answer.headers["vary"] == "Origin"


@pytest.mark.parametrize(
    "text",
    ["", "*", "null", "page.example", "https://", f"{PAGE}/", f"{PAGE}/a", f"{PAGE},", "https://*.example", "ftp://a",
     f"{PAGE} https://b", "HTTPS://A", "https://user@a"],
)  # fmt: skip
def test_what_is_no_origin(models: Path, text: str) -> None:
    with pytest.raises(UsageError, match="--cors-origin"):
        create_app(Settings(models=models, cors_origin=text))


def test_origins() -> None:
    assert origins(f"{PAGE} ,http://[::1]:8080") == [PAGE, "http://[::1]:8080"]


# The documentation


class Links(HTMLParser):
    """What a page loads, and what it holds of scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href")]
        self.inline += [name for name, _ in attrs if name.startswith("on") or name == "style"]

    def handle_data(self, data: str) -> None:
        self.inline += [data.strip()] if self.lasttag in ("script", "style") and data.strip() else []


def test_documentation_comes_from_here_alone(server: Running) -> None:
    page = server.client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    links = Links()
    links.feed(page.text)
    assert links.inline == []
    loaded = [link for link in links.found if not link.startswith("data:")]
    assert len(loaded) == 3
    for link in loaded:
        assert not re.match(r"[a-z]+:|//", link)
        part = server.client.get(httpx.URL("/docs").join(link))
        assert part.status_code == 200
        assert part.headers["content-type"].startswith("text/css" if link.endswith(".css") else "text/javascript")
        assert part.headers["x-content-type-options"] == "nosniff"
    policy = dict(part.strip().partition(" ")[::2] for part in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert not re.search(r"https?:", page.headers["content-security-policy"])


@pytest.mark.parametrize("name", ["favicon.png", "..%2f__init__.py", "%2e%2e", "redoc.standalone.js", "a%00", "start"])
def test_documentation_has_no_other_files(server: Running, name: str) -> None:
    assert server.client.get(f"/docs/{name}").status_code == 404


def test_documentation_in_a_browser(server: Running) -> None:
    """It shows the routes, and the browser has nothing to complain of: neither policy nor script."""
    sync_api = pytest.importorskip("playwright.sync_api")
    complaints: list[str] = []

    def visit() -> None:
        with sync_api.sync_playwright() as playwright:
            try:
                browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            except sync_api.Error:
                complaints.append("no browser")
                return
            page = browser.new_page()
            page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("requestfailed", lambda request: complaints.append(request.url))
            page.goto(str(server.client.base_url.join("/docs")))
            page.get_by_text("/v1/sentiment", exact=True).first.wait_for()
            browser.close()

    with ThreadPoolExecutor() as pool:  # its loop must not meet that of another test
        pool.submit(visit).result()
    if complaints == ["no browser"]:
        pytest.skip("there is no browser here; playwright install chromium brings one")
    assert complaints == []


def test_files_that_are_not_installed(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.protocols.docs.PACKAGE", "no_such_package")
    answer = server.client.get("/docs/swagger-ui.css")
    assert answer.status_code == 404
    assert "pip install" in answer.json()["detail"]
