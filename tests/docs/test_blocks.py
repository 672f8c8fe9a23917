"""Every block of code in README and docs runs, or says why it does not."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path

import pytest
from yaml import YAMLError

from tests.docs.pages import PAGES, ROOT, SNIPPET, Block, blocks, running, why_not_run
from tests.docs.registering import EXAMPLES

GIVEN = {
    "README.md": """
import json, numpy as np
from pathlib import Path
text, audio, vision = (np.asarray(json.load(open("item.json"))[m], np.float32) for m in ("text", "audio", "vision"))
import base64
Path("dish.jpg").write_bytes(base64.b64decode(json.load(open("models/food/1/example.json"))["image"]))
paths = [Path("dish.jpg")] * 2
""",
}
"""Page -> the names that its Python takes as known."""
RUN = [page for page in PAGES if any(not why_not_run(block) for block in blocks(page))]


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_blocks_run(page: Path, workplace: Path) -> None:
    found = blocks(page)
    with running(workplace, GIVEN.get(page.name, "")) as runner:
        for block, following in zip_longest(found, found[1:]):
            runner.run(block, following)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_fence_is_a_block(page: Path) -> None:
    """A fence that is not at the start of a line, or not closed, would be overlooked."""
    text = page.read_text("utf-8")
    assert text.count("```") == 2 * len(blocks(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_reason_is_a_reason(page: Path) -> None:
    for block in blocks(page):
        reason = why_not_run(block)
        assert reason is None or len(reason.split()) >= 4, f"{block}: {reason!r}"


def test_snippets_are_examples_that_are_tested() -> None:
    included = {name for page in PAGES for block in blocks(page) for name in SNIPPET.findall(block.text)}
    assert {ROOT / name for name in included} == set(EXAMPLES.glob("*/*.py"))


# What runs blocks, tried on blocks that it must not let pass


def block(text: str, kind: str = "sh", note: str = "") -> Block:
    return Block(Path("page.md"), 1, kind, text, note)


@pytest.mark.parametrize(
    "bad",
    [
        block("false\ntrue\n"),
        block("no-such-command\n"),
        block("curl -s http://127.0.0.1:8000/\n"),
        block("assert 1 == 2\n", "python"),
        block("{", "json"),
        block("a: [", "yaml"),
        block("anything", "perl"),
        block("wander serve nowhere\n"),
    ],
    ids=lambda bad: bad.text.split("\n")[0],
)
def test_a_block_that_fails_fails(bad: Block, tmp_path: Path) -> None:
    with running(tmp_path) as runner, pytest.raises((AssertionError, ValueError, YAMLError)):
        runner.run(bad, None)


def test_what_is_printed_is_compared(tmp_path: Path) -> None:
    asked = block("echo one; echo two >&2; exit 3\n")
    with running(tmp_path) as runner:
        runner.run(asked, block("one\ntwo\n", "text", "printed"))
        with pytest.raises(AssertionError, match="says otherwise"):
            runner.run(asked, block("one\n", "text", "printed"))


def test_a_file_is_written_and_a_reason_is_read(tmp_path: Path) -> None:
    with running(tmp_path) as runner:
        runner.run(block("hello\n", "text", "file: greeting.txt"), None)
    assert (tmp_path / "greeting.txt").read_text() == "hello\n"
    assert why_not_run(block("", note="not run: it takes an hour of a GPU")) == "it takes an hour of a GPU"
    assert why_not_run(block("", note="a remark")) is None
