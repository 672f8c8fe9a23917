"""A browser on a live server: every tab with real inputs, an upload, what goes wrong, a phone, the keyboard."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.demo.conftest import PATIENCE, Start, Visit
from tests.serving.building import SIZES, random_rows

pytest.importorskip("gradio", reason="the extra demo is not installed")
STAGES = ("queue", "preprocess", "inference", "postprocess")


@pytest.fixture(scope="module")
def address(start: Start, shipped: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    indexes = tmp_path_factory.mktemp("indexes")
    return start("serve", shipped, "--demo", "--port", "0", "--indexes", indexes)


@pytest.fixture(scope="module")
def visit(browser: Any, address: str) -> Iterator[Visit]:
    """One visitor, who stays for all tests of this file."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    yield Visit(context.new_page(), address)
    context.close()


@pytest.fixture
def features(tmp_path: Path) -> Path:
    path = tmp_path / "utterance.npz"
    np.savez(path, **{name: array[0] for name, array in random_rows(1, 7).items()})
    return path


def about(visit: Visit) -> str:
    """What is told of the model that answered; waits for it."""
    text: str = visit.seen(".wd-time").locator("xpath=ancestor::section").inner_text()
    for stage in STAGES:
        assert stage in text
    assert "parity passed" in text
    return text


def pasted(visit: Visit, folder: Path) -> list[Any]:
    """What the lines answer that the page offers for a shell and for Python, beside the files it offers."""
    panel = visit.page.locator("[role=tabpanel]:visible")
    if not panel.locator(".cm-content:visible").count():
        panel.get_by_text("The call just made, to paste").click()
        panel.locator(".cm-content:visible").first.wait_for()
    curl, python = (
        "\n".join(block.locator(".cm-line").all_inner_texts()) for block in panel.locator(".cm-content").all()
    )
    for link in panel.locator("a[download]").all():
        with visit.page.expect_download() as download:
            link.click()
        download.value.save_as(folder / str(link.get_attribute("download")))
    options: dict[str, Any] = {"cwd": folder, "check": True, "capture_output": True, "text": True}
    options["env"] = {**os.environ, "NO_PROXY": "127.0.0.1"}
    shell = [json.loads(subprocess.run(["bash", "-c", one], **options).stdout) for one in curl.split("\n\n") if one]
    printed = subprocess.run([sys.executable, "-c", python], **options).stdout.splitlines()
    own = [eval(line) for line in printed]  # noqa: S307  our own print
    for answers in (shell, own):
        for answer in answers:
            answer.pop("timing")
    assert shell == own
    return shell


def test_sentiment_from_the_example_and_from_an_upload(visit: Visit, features: Path, tmp_path: Path) -> None:
    visit.tab("Sentiment")
    visit.press("Use the example")
    visit.holds("example")
    visit.press("Ask with features")
    first = visit.seen(".wd-number").inner_text()
    assert "mosi" in about(visit)
    assert len(visit.page.locator(".wd-seven li").all()) == 7
    assert "cannot tell" in visit.page.locator("[role=tabpanel]:visible").inner_text()
    (answer,) = pasted(visit, tmp_path)
    assert f"{answer['score']:+.2f}" == first
    visit.clear()
    visit.upload(features)
    visit.press("Ask with features")
    assert visit.seen(".wd-number").inner_text() != first


def test_what_is_wrong_is_a_message_that_names_the_field(visit: Visit, tmp_path: Path) -> None:
    visit.tab("Sentiment")
    length, width = SIZES["audio"]
    path = tmp_path / "too wide.json"
    item = {name: array[0].tolist() for name, array in random_rows(1).items()}
    path.write_text(json.dumps(item | {"audio": np.zeros((length, width + 1)).tolist()}))
    visit.clear()
    visit.upload(path)
    visit.press("Ask with features")
    said = visit.seen(".wd-problem").inner_text()
    assert "audio" in said
    assert f"rows of {width} numbers" in said
    assert "Traceback" not in visit.page.content()
    visit.clear()
    visit.press("Ask with features")
    visit.page.get_by_text("upload features, or use the example").wait_for()


def test_emotion(visit: Visit) -> None:
    visit.tab("Emotion")
    visit.press("Use the example")
    visit.holds("example")
    visit.press("Ask with features")
    rows = visit.seen(".wd-bars").locator("tr")
    assert rows.count() == 3
    shares = [float(text.rstrip(" %")) for text in rows.locator("td:last-child").all_inner_texts()]
    assert shares == sorted(shares, reverse=True)
    assert abs(sum(shares) - 100) < 0.2
    assert "iemocap" in about(visit)


def test_food_with_and_without_each_modality(visit: Visit, tmp_path: Path) -> None:
    visit.tab("Food")
    visit.press("Which dish is it?")
    visit.seen(".wd-pair")
    tables = visit.page.locator("[role=tabpanel]:visible .wd-bars")
    assert [table.locator("tr").count() for table in tables.all()] == [5, 5, 5]
    assert "small demonstration model" in about(visit)
    answers = pasted(visit, tmp_path)
    assert len(answers) == 3
    shown = tables.first.locator("th").all_inner_texts()
    assert [one["label"].replace("_", " ") for one in answers[0]["labels"]] == shown
    visit.page.get_by_label("Ingredients").fill("")
    visit.press("Which dish is it?")
    visit.page.get_by_role("heading", name="The picture alone").wait_for()
    assert visit.page.locator("[role=tabpanel]:visible .wd-bars").count() == 1


def test_a_file_that_is_no_picture(visit: Visit, tmp_path: Path) -> None:
    visit.tab("Food")
    path = tmp_path / "nothing.png"
    path.write_bytes(b"this is no picture")
    visit.page.locator(
        "[role=tabpanel]:visible [aria-label='Clear'], [role=tabpanel]:visible [aria-label='Remove Image']"
    ).first.click()
    visit.page.locator("[role=tabpanel]:visible input[type=file]").first.set_input_files(str(path))
    visit.page.locator("[role=tabpanel]:visible img[src*=nothing]").first.wait_for(state="attached")
    visit.press("Which dish is it?")
    assert "image" in visit.seen(".wd-problem code").inner_text()


def test_clips_are_added_and_found(visit: Visit, tmp_path: Path) -> None:
    visit.tab("Text & video")
    visit.page.get_by_label("Look for").and_(visit.page.locator(":visible")).fill("the cat")
    visit.press("Search")
    assert "no clips yet" in visit.seen(".wd-problem").inner_text()
    for title in ("a first clip", "a second clip"):
        visit.press("Use the example")
        visit.holds("example")
        visit.page.get_by_label("What is to be seen").fill(title)
        visit.press("Add the clip")
        visit.page.get_by_role("heading", name="Added").wait_for()
        visit.page.get_by_label("What is to be seen").fill("")
    visit.press("Search")
    visit.seen(".wd-grid")
    assert visit.page.locator("[role=tabpanel]:visible figure").count() == 2
    assert visit.page.locator("[role=tabpanel]:visible .wd-weights li").count() >= 2
    about(visit)
    (answer,) = pasted(visit, tmp_path)
    assert {hit["metadata"]["title"] for hit in answer["hits"]} == {"a first clip", "a second clip"}


def test_pictures_and_sentences_find_each_other(visit: Visit, tmp_path: Path) -> None:
    visit.tab("Image & text")
    visit.press("Compare the picture with each sentence")
    assert visit.seen(".wd-bars").locator("tr").count() == 4
    about(visit)
    assert len(pasted(visit, tmp_path)) == 4
    visit.press("Pictures that fit the words")
    visit.seen(".wd-grid")
    assert visit.page.locator("[role=tabpanel]:visible figure").count() == 6
    loaded = "Array.from(document.querySelectorAll('.wd-grid img')).every(i => i.complete && i.naturalWidth > 0)"
    visit.page.wait_for_function(loaded)
    assert "search" in about(visit)
    visit.press("Sentences that fit the picture")
    visit.page.get_by_role("heading", name="Sentences, best first").wait_for()
    visit.press("Add picture and sentences")
    visit.page.get_by_role("heading", name="Added").wait_for()
    visit.press("Empty the index")
    visit.page.get_by_role("heading", name="Emptied").wait_for()


def test_on_a_phone_nothing_hangs_over(browser: Any, address: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844})
    phone = Visit(context.new_page(), address)
    phone.press("Use the example")
    phone.press("Ask with features")
    about(phone)
    for title in ("Sentiment", "Emotion", "Food", "Text & video", "Image & text"):
        phone.tab(title)
        phone.page.wait_for_timeout(200)
        assert phone.page.evaluate("document.documentElement.scrollWidth") <= 390, title
    assert phone.complaints == []
    context.close()


def test_keyboard_alone(visit: Visit) -> None:
    visit.tab("Sentiment")
    visit.page.get_by_role("tab", name="Sentiment", exact=True).focus()
    visit.page.keyboard.press("Tab")
    visit.page.keyboard.press("Enter")
    assert visit.page.get_by_role("tab", name="Emotion", exact=True).get_attribute("aria-selected") == "true"
    for _ in range(12):
        visit.page.keyboard.press("Tab")
        if visit.page.evaluate("document.activeElement.innerText") == "Ask with features":
            break
    else:
        raise AssertionError("the button is not reached")
    before = visit.answers
    visit.page.keyboard.press("Enter")
    visit.answered(before, time.monotonic() + PATIENCE)


def test_the_browser_had_nothing_to_complain_of_and_asked_nobody_else(visit: Visit) -> None:
    assert visit.strangers == []
    assert visit.complaints == []
