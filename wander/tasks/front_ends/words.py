"""A sentence to word vectors: tokens, looked up in a table beside the manifest.

A token is a run of letters and digits, without case, accents and apostrophes (`Didn't` is `didnt`). A word that the
table lacks has the table's row for unknown words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wander.errors import BundleError, InputError, TooLarge
from wander.signature import TensorSpec
from wander.tasks._texts import FileName, checked
from wander.tasks.front_ends.base import FrontEnd, FrontEndOptions, Rows, fitted

EXAMPLE_WORDS = 6

_APOSTROPHES = re.compile("['`´ʼ‘’]")
_TOKENS = re.compile(r"[^\W_]+")


class WordsOptions(FrontEndOptions):
    """Attributes:
    vocabulary: file with a word a line, in UTF-8.
    vectors: .npy file, float32 (1 + number of words, D): the row for unknown words, then one for every word.
    unknown: `vector`: unknown words have that row. A sentence of unknown words alone is refused all the same.
    max_characters: longer texts are refused, and so are texts of more words than the input has rows.
    """

    kind: Literal["words"] = "words"
    vocabulary: FileName = "words.txt"
    vectors: FileName = "vectors.npy"
    unknown: Literal["vector"] = "vector"
    max_characters: Annotated[int, Field(ge=1)] = 10_000


class Words(FrontEnd):
    """Fills the input of the field's own name."""

    Options = WordsOptions
    uploads: ClassVar[bool] = False

    def __init__(self, options: WordsOptions, field: str, inputs: Mapping[str, TensorSpec], folder: Path) -> None:
        self.options, self.field = options, field
        self.words = _words(folder / options.vocabulary)
        self.vectors = _vectors(folder / options.vectors, len(self.words) + 1)
        self.rows = {word: row for row, word in enumerate(self.words, 1)}
        self.length = fitted(inputs, field, self.vectors.shape[1])

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.field,)

    def reads(self, value: object) -> bool:
        return isinstance(value, str)

    def __call__(self, raw: Any) -> dict[str, Rows]:
        found = tokens(checked(raw, self.field, self.options.max_characters))
        if not found:
            raise InputError(f"{self.field} holds no word; write at least one", self.field)
        if len(found) > self.length:
            raise TooLarge(
                f"{self.field} has {len(found)} words, more than the {self.length} that this model reads; shorten it",
                self.field,
            )
        rows = [self.rows.get(word, 0) for word in found]
        if not any(rows):
            raise InputError(f"{self.field}: this model knows none of these words; write others", self.field)
        return {self.field: Rows(self.vectors[rows], list(found))}

    def schema(self) -> dict[str, Any]:
        about = f"a sentence of at most {self.length} words"
        return {"type": "string", "minLength": 1, "maxLength": self.options.max_characters, "description": about}

    def example(self, features: Mapping[str, NDArray[Any]]) -> str:
        """The words whose vectors are nearest to the first rows."""
        rows = features[self.field][: min(EXAMPLE_WORDS, self.length)].astype(np.float64)
        known = self.vectors[1:].astype(np.float64)
        nearest = (np.square(known).sum(1) - 2 * rows @ known.T).argmin(1)
        return " ".join(self.words[word] for word in nearest)


def tokens(text: str) -> list[str]:
    """The words of a text, as the vocabulary has them."""
    plain = unicodedata.normalize("NFKD", _APOSTROPHES.sub("", text))
    # Folded in between, as Unicode does (NFKC_Casefold): each of the two brings work for the other.
    plain = _APOSTROPHES.sub("", unicodedata.normalize("NFKD", plain.casefold()))
    return _TOKENS.findall("".join(character for character in plain if not unicodedata.combining(character)))


def _words(path: Path) -> list[str]:
    try:
        words = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{path.name} is missing or is no list of words: {error}") from error
    if not words or len(set(words)) < len(words):
        raise BundleError(f"{path.name} must hold words, each once")
    return words


def _vectors(path: Path, rows: int) -> NDArray[np.float32]:
    try:
        vectors = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BundleError(f"{path.name} is missing or is no array: {error}") from error
    if not isinstance(vectors, np.ndarray) or vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != rows:
        raise BundleError(f"{path.name} must hold {rows} rows of float32: unknown words, then every word")
    if not np.isfinite(vectors).all():
        raise BundleError(f"{path.name} holds a number that is not finite")
    return vectors


plugin = Words
