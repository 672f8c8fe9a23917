"""Sentences to word vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wander.errors import BundleError, InputError, TooLarge
from wander.signature import TensorSpec
from wander.tasks.front_ends.words import Words, WordsOptions, tokens

VOCABULARY = ("i", "loved", "didnt", "it")
VECTORS = np.arange(10, dtype=np.float32).reshape(5, 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "words.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    np.save(tmp_path / "vectors.npy", VECTORS)
    return tmp_path


def bound(folder: Path, rows: int = 5, width: int = 2) -> Words:
    spec = TensorSpec(name="text", dtype="float32", dims=("batch", rows, width))
    return Words(WordsOptions(), "text", {"text": spec}, folder)


def test_words_are_looked_up(folder: Path) -> None:
    rows = bound(folder)("I LOVED it, didn’t they?")["text"]
    assert rows.labels == ["i", "loved", "it", "didnt", "they"]
    assert rows.features.tolist() == VECTORS[[1, 2, 4, 3, 0]].tolist()
    assert rows.features.dtype == np.float32


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Didn't, DIDN’T didnt", ["didnt"] * 3),
        ("naïve Café", ["naive", "cafe"]),
        ("well-made: 10/10!", ["well", "made", "10", "10"]),
        ("under_score\tand\nlines", ["under", "score", "and", "lines"]),
        ("ﬁne Straße", ["fine", "strasse"]),
        ("Ελλάδα 東京", ["ελλαδα", "東京"]),
        ("... ' \u0301 😀", []),
    ],
)
def test_tokens(text: str, words: list[str]) -> None:
    assert tokens(text) == words


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", InputError, "no word"),
        ("?!", InputError, "no word"),
        ("xyzzy plugh", InputError, "knows none"),
        ("it " * 6, TooLarge, "6 words, more than the 5"),
        ("a" * 10_001, TooLarge, "10001 characters"),
        ("\ud800", InputError, "half a character"),
    ],
)
def test_what_is_refused(folder: Path, text: str, error: type[InputError], message: str) -> None:
    assert bound(folder).reads(text)
    with pytest.raises(error, match=message) as caught:
        bound(folder)(text)
    assert caught.value.field == "text"


def test_features_are_not_raw(folder: Path) -> None:
    assert not bound(folder).reads([[1.0, 2.0]])
    assert not bound(folder).reads(VECTORS)


@given(st.text(max_size=50))
@example("𝕊 don＇t ŉ İ")
def test_tokens_are_plain(text: str) -> None:
    for word in tokens(text):
        assert word.isalnum()
        assert tokens(word) == [word]


def test_the_example_is_made_of_its_words(folder: Path) -> None:
    assert bound(folder).example({"text": VECTORS[[2, 4, 1]] + 0.1}) == "loved it i"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "words.txt").unlink(), "words.txt is missing"),
        (lambda f: (f / "words.txt").write_text("it it"), "each once"),
        (lambda f: (f / "words.txt").write_bytes(b"\xff"), "no list of words"),
        (lambda f: (f / "vectors.npy").write_bytes(b"no array"), "no array"),
        (lambda f: np.save(f / "vectors.npy", VECTORS[:3]), "5 rows"),
        (lambda f: np.save(f / "vectors.npy", VECTORS.astype(np.float64)), "float32"),
        (lambda f: np.save(f / "vectors.npy", VECTORS * np.float32(np.inf)), "not finite"),
        (lambda f: np.save(f / "vectors.npy", VECTORS[:, :1]), "rows of 1 numbers, but the graph takes 2"),
        (lambda f: np.save(f / "vectors.npy", np.array([object()]), allow_pickle=True), "no array"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_files_that_do_not_fit(folder: Path, change: object, message: str) -> None:
    change(folder)  # type: ignore[operator]
    with pytest.raises(BundleError, match=message):
        bound(folder)
