"""Texts from strangers to token ids, without torch and transformers.

A tokenizer is a configuration in `preprocessing` of a manifest, which says its kind and its file beside the manifest:
`TextPreprocessing` reads any kind, `.load(folder)` gives the tokenizer. Several threads may call one tokenizer.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from wander.errors import BundleError, InputError, TooLarge

if TYPE_CHECKING:
    import tokenizers

Tokens = dict[str, NDArray[np.int64]]
FileName = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]


class _Text(BaseModel):
    """What all kinds of text have.

    Attributes:
        max_length: most tokens of a text, with those that mark its start and end; what is longer is cut.
        pad: whether every text is padded to `max_length`; otherwise it has its true length.
        max_characters: longer texts are refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_length: int = Field(ge=3)
    pad: bool = True
    max_characters: int = Field(default=10_000, ge=1)


class BertText(_Text):
    """WordPiece as BERT has it.

    Attributes:
        lower_case: whether case and accents are removed, where it differs from what the file says. (MMT reads a cased
            vocabulary without case.)
        max_words: if given, only so many of the words between spaces are read.
        sentence: whether a text is made a sentence: trimmed, capitalised, and ended by `.` unless it ends in `.?!`.
    """

    kind: Literal["bert"] = "bert"
    file: FileName = "tokenizer.json"
    lower_case: bool | None = None
    max_words: int | None = Field(default=None, ge=1)
    sentence: bool = False

    def load(self, folder: Path) -> BertTokenizer:
        """Raises BundleError if the file is missing or is no tokenizer of this kind."""
        return BertTokenizer(self, folder)


class Beit3Text(_Text):
    """SentencePiece as BEiT-3 has it."""

    names: ClassVar[tuple[str, ...]] = ("text_ids", "padding_mask")

    kind: Literal["beit3"] = "beit3"
    file: FileName = "beit3.spm"

    def load(self, folder: Path) -> Beit3Tokenizer:
        """Raises BundleError if the file is missing or is no SentencePiece model."""
        return Beit3Tokenizer(self, folder)


TextPreprocessing = Annotated[BertText | Beit3Text, Field(discriminator="kind")]


class Tokenizer(ABC):
    """Turns one text into the tensors of one item."""

    names: ClassVar[tuple[str, ...]]

    @abstractmethod
    def __call__(self, text: object, field: str = "text") -> Tokens:
        """int64 arrays (length), named as in `names`.

        Raises InputError or TooLarge, naming `field`, for what is not a text that can be read.
        """


class BertTokenizer(Tokenizer):
    """Gives `input_ids` and `attention_mask`, which is 1 for a token and 0 for padding."""

    names = ("input_ids", "attention_mask")

    def __init__(self, config: BertText, folder: Path) -> None:
        self.config = config
        self._tokenizer = self._read(folder / config.file)

    def __call__(self, text: object, field: str = "text") -> Tokens:
        text = checked(text, field, self.config.max_characters)
        if self.config.max_words is not None:
            text = " ".join(text.split()[: self.config.max_words])
        if self.config.sentence:
            text = as_sentence(text, field)
        encoding = self._tokenizer.encode(text)
        return {"input_ids": _int64(encoding.ids), "attention_mask": _int64(encoding.attention_mask)}

    @property
    def size(self) -> int:
        """Number of tokens that it knows."""
        return int(self._tokenizer.get_vocab_size())

    def decode(self, ids: list[int]) -> str:
        """A text with these ids, without the special ones."""
        return str(self._tokenizer.decode(ids))

    def _read(self, path: Path) -> tokenizers.Tokenizer:
        import tokenizers

        try:
            tokenizer = tokenizers.Tokenizer.from_str(path.read_text("utf-8"))
        except Exception as error:
            # The library raises plain Exception.
            raise BundleError(f"{path.name} is missing or is no tokenizer: {error}") from error
        padding = tokenizer.token_to_id("[PAD]")
        if padding is None or tokenizer.num_special_tokens_to_add(is_pair=False) != 2:
            raise BundleError(f"{path.name} is no tokenizer of BERT, with [PAD], [CLS] and [SEP]")
        if self.config.lower_case is not None:
            tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=self.config.lower_case)
        tokenizer.enable_truncation(self.config.max_length)
        tokenizer.no_padding()
        if self.config.pad:
            tokenizer.enable_padding(pad_id=padding, pad_token="[PAD]", length=self.config.max_length)
        return tokenizer


class Beit3Tokenizer(Tokenizer):
    """Gives `text_ids` and `padding_mask`, which is 0 for a token and 1 for padding."""

    names = Beit3Text.names

    def __init__(self, config: Beit3Text, folder: Path) -> None:
        import sentencepiece

        self.config = config
        self._model = sentencepiece.SentencePieceProcessor()
        path = folder / config.file
        try:
            self._model.LoadFromSerializedProto(path.read_bytes())
        except (OSError, RuntimeError) as error:
            raise BundleError(f"{path.name} is missing or is no SentencePiece model: {error}") from error
        self._special = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": self._model.GetPieceSize() + 1}
        self._split = re.compile(f"({'|'.join(self._special)})").split

    def __call__(self, text: object, field: str = "text") -> Tokens:
        ids = self.ids(checked(text, field, self.config.max_characters))
        if not ids:
            raise InputError(f"{field} holds nothing that can be read; write at least one word", field)
        ids = [self._special["<s>"], *ids[: self.config.max_length - 2], self._special["</s>"]]
        missing = self.config.max_length - len(ids) if self.config.pad else 0
        return {
            "text_ids": _int64(ids + [self._special["<pad>"]] * missing),
            "padding_mask": _int64([0] * len(ids) + [1] * missing),
        }

    @property
    def size(self) -> int:
        """Number of ids, with `<pad>` and `<mask>`."""
        return int(self._special["<mask>"]) + 1

    def decode(self, ids: list[int]) -> str:
        """A text with these ids, without the special ones."""
        size = self._model.GetPieceSize()
        return str(self._model.Decode([one - 1 for one in ids if 3 < one <= size]))

    def ids(self, text: str) -> list[int]:
        """All ids of a text, uncut, without start and end. A special token's name stands for it, wherever it occurs."""
        ids: list[int] = []
        for part in self._split(text):
            if part in self._special:
                ids.append(self._special[part])
            else:
                # In the file <unk> is 0 and there is no <pad>: the model has moved all pieces up by one.
                ids += [piece + 1 if piece else self._special["<unk>"] for piece in self._model.Encode(part)]
        return ids


def checked(text: object, field: str, max_characters: int) -> str:
    """The text, if it is one. Control characters are fine: tokenizers drop them or know what to do with them."""
    if not isinstance(text, str):
        raise InputError(f"{field} must be a text", field)
    if len(text) > max_characters:
        raise TooLarge(f"{field} has {len(text)} characters, more than {max_characters}; shorten it", field)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{field} holds half a character at place {error.start}; send valid Unicode", field) from error
    return text


def as_sentence(text: str, field: str) -> str:
    """Trimmed, capitalised, and ended by a period unless it ends in `.`, `?` or `!`."""
    text = text.strip()
    if not text:
        raise InputError(f"{field} holds no word; write at least one", field)
    return (text if text[-1] in ".?!" else text + ".").capitalize()


def bert_tokenizer_json(vocabulary: str, lower_case: bool) -> str:
    """The text of a `tokenizer.json` made from that of BERT's `vocab.txt`. Raises BundleError if that is none."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    # The vocabularies hold characters that splitlines() takes for ends of lines.
    ids = {token: i for i, token in enumerate(vocabulary.removesuffix("\n").split("\n"))}
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    if missing := [token for token in special if token not in ids]:
        raise BundleError(f"the vocabulary lacks {missing[0]}")
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower_case)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    ends = [(token, ids[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.add_special_tokens(list(special))
    return json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, indent=1) + "\n"


def _int64(values: list[int]) -> NDArray[np.int64]:
    return np.asarray(values, np.int64)
