"""The documentation as a site: built strictly, complete, and with nothing in it that is fetched from elsewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.pages import ROOT

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("material") is None, reason="mkdocs-material is not installed; it is in the extra docs"
)
LOADED = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src")}
"""What a browser fetches without being asked."""


class Parsed(HTMLParser):
    """Every address in a page, with the element it stands in, and every anchor."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.addresses: list[tuple[str, str, str]] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in ("href", "src") and value:
                self.addresses.append((tag, name, value))
            if name in ("id", "name") and value:
                self.anchors.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Parsed]:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {path: Parsed(path) for path in folder.rglob("*.html")}


def test_every_page_is_there(site: dict[Path, Parsed]) -> None:
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} <= {path.stem for path in site}


def test_links_within_the_site_lead_somewhere(site: dict[Path, Parsed]) -> None:
    for path, page in site.items():
        if path.name == "404.html":  # is served at any address
            continue
        for tag, _, address in page.addresses:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), f"{path.name}: {address}"
            if parts.fragment and tag == "a" and target in site:
                assert unquote(parts.fragment) in site[target].anchors, f"{path.name}: {address}"


def test_nothing_is_fetched_from_elsewhere(site: dict[Path, Parsed]) -> None:
    for path, page in site.items():
        for tag, name, address in page.addresses:
            if (tag, name) in LOADED:
                assert not urlsplit(address).netloc, f"{path.name} loads {address}"


def test_snippets_are_in_the_pages(site: dict[Path, Parsed]) -> None:
    for path in site:
        assert "--8<--" not in path.read_text("utf-8"), path.name
    folds = next(path for path in site if path.name == "folds.html").read_text("utf-8")
    assert re.search(r"<td[^>]*>mosi-sentiment</td>", folds)
    extending = next(path for path in site if path.name == "extending.html").read_text("utf-8")
    assert "AdditiveConfig" in extending
