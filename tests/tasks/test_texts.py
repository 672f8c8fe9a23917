from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from tests.oracles import ORACLES, load, needs_oracles
from wander.errors import BundleError, InputError, TooLarge
from wander.tasks._texts import (
    Beit3Text,
    BertText,
    TextPreprocessing,
    Tokenizer,
    bert_tokenizer_json,
)

BEIT3 = ORACLES / "beit3_tokenizer"
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] . ? ! , ' a b c e i the cat Cat cafe Café ##a ##b ##s ##e ##fé"
# str.splitlines() would end a line at either of the last two.
VOCABULARY = (
    "\n".join([*WORDS.split(" "), "ss", "##ss", "σ", "##σ", "ς", "##ς", "中", "国", "😀", "\u2028", "\x85"]) + "\n"
)
IDS = {token: i for i, token in enumerate(VOCABULARY[:-1].split("\n"))}
HOSTILE = [
    "",
    "   ",
    "the cat",
    "THE Cats",
    "café cafe\u0301 Café",
    "中国a 中 国",
    "İ ı ﬁ ẞ ß ǅ",
    "\0a\x07b\u200bc\x1b[31m",
    "a\u2028b\x85c\x0b",
    "[SEP] the [MASK] [sep]",
    "[UNK] [PAD][CLS]",
    "😀😀 👨‍👩‍👧 \U0010ffff",
    "a" * 101 + " " + "a" * 100,
    "ΟΔΟΣ σς",
    "\ufffd\ufeff the \u202ecat",
    "a\tb\nc\r",
    "the." * 60,
    "Z" + "\u0301" * 500,
    "\u0e34\u0600\u061c",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle")
    for name, lower_case in (("tokenizer.json", True), ("cased.json", False)):
        (path / name).write_text(bert_tokenizer_json(VOCABULARY, lower_case), "utf-8")
    return path


@pytest.fixture(scope="module")
def mmt(folder: Path) -> Tokenizer:
    return BertText(file="cased.json", lower_case=True, max_length=8, max_words=5, sentence=True).load(folder)


def captions() -> list[str]:
    return [json.loads(line)["text"] for line in (BEIT3 / "captions.jsonl").read_text("utf-8").splitlines()]


@needs_oracles
@pytest.mark.parametrize("n", [64, 16, 5])
def test_beit3_gives_the_reference_ids(n: int) -> None:
    tokenizer, reference = Beit3Text(max_length=n).load(BEIT3), load(BEIT3 / "outputs.npz")
    got = [tokenizer(text) for text in captions()]
    assert all(tensor.dtype == np.int64 for tokens in got for tensor in tokens.values())
    np.testing.assert_array_equal([tokens["text_ids"] for tokens in got], reference[f"ids_{n}"])
    np.testing.assert_array_equal([tokens["padding_mask"] for tokens in got], reference[f"padding_mask_{n}"])
    assert [int((tokens["padding_mask"] == 0).sum()) for tokens in got] == reference[f"num_tokens_{n}"].tolist()


@needs_oracles
def test_beit3_uncut_ids_and_true_lengths() -> None:
    tokenizer, reference = Beit3Text(max_length=64, pad=False).load(BEIT3), load(BEIT3 / "outputs.npz")
    for line, text, length in zip(
        (BEIT3 / "tokens.jsonl").read_text("utf-8").splitlines(), captions(), reference["num_tokens_64"], strict=True
    ):
        assert tokenizer.ids(text) == json.loads(line)["ids"]
        tokens = tokenizer(text)
        assert tokens["text_ids"].shape == tokens["padding_mask"].shape == (length,)
        assert not tokens["padding_mask"].any()


@needs_oracles
def test_beit3_special_names_may_stand_anywhere() -> None:
    tokenizer = Beit3Text(max_length=64).load(BEIT3)
    a, b = tokenizer.ids("a"), tokenizer.ids("b")
    assert tokenizer.ids("a<mask>b") == tokenizer.ids("a  <mask>\t b") == [*a, 64001, *b]
    assert tokenizer.ids("<s></s><pad><unk><mask>") == [0, 2, 1, 3, 64001]
    assert 64001 not in tokenizer.ids("<Mask> < mask> <mask")


@needs_oracles
@pytest.mark.parametrize("text", ["", "  ", "\n\t", "\u200b", "\ufeff", "\u3000"])
def test_beit3_refuses_a_text_without_tokens(text: str) -> None:
    with pytest.raises(InputError, match=r"caption holds nothing that can be read") as caught:
        Beit3Text(max_length=64).load(BEIT3)(text, "caption")
    assert caught.value.field == "caption"


def test_bert_pads_cuts_and_marks(folder: Path) -> None:
    padded = BertText(max_length=6).load(folder)
    tokens = padded("The Cat")
    assert tokens["input_ids"].tolist() == [IDS[t] for t in ("[CLS]", "the", "cat", "[SEP]", "[PAD]", "[PAD]")]
    assert tokens["attention_mask"].tolist() == [1, 1, 1, 1, 0, 0]
    assert {tensor.dtype for tensor in tokens.values()} == {np.dtype(np.int64)}
    long = padded("the cat " * 9)["input_ids"].tolist()
    assert long == [IDS[t] for t in ("[CLS]", "the", "cat", "the", "cat", "[SEP]")]
    true = BertText(max_length=6, pad=False).load(folder)("the")
    assert (true["input_ids"].tolist(), true["attention_mask"].tolist()) == ([2, IDS["the"], 3], [1, 1, 1])


@pytest.mark.parametrize("lower_case", [True, False])
@pytest.mark.parametrize("pad", [True, False])
def test_bert_is_what_transformers_gives(folder: Path, lower_case: bool, pad: bool) -> None:
    transformers = pytest.importorskip("transformers")
    reference = transformers.BertTokenizer(vocab=IDS, do_lower_case=lower_case)
    baked = BertText(file="tokenizer.json" if lower_case else "cased.json", max_length=12, pad=pad).load(folder)
    other = "cased.json" if lower_case else "tokenizer.json"
    chosen = BertText(file=other, lower_case=lower_case, max_length=12, pad=pad).load(folder)
    for text in HOSTILE:
        expected = reference(text, max_length=12, truncation=True, padding="max_length" if pad else False)
        for tokenizer in (baked, chosen):
            tokens = tokenizer(text)
            assert {name: tensor.tolist() for name, tensor in tokens.items()} == {
                name: expected[name] for name in tokens
            }


def test_mmt_lower_cases_ends_the_sentence_and_cuts(mmt: Tokenizer) -> None:
    def pieces(*names: str) -> list[int]:
        return [IDS[name] for name in ("[CLS]", *names, "[SEP]")]

    def ids(text: str) -> list[int]:
        tokens = mmt(text)
        return tokens["input_ids"][tokens["attention_mask"] == 1].tolist()

    assert ids(" The  CAT ") == pieces("the", "cat", ".")
    assert ids("Café!") == pieces("cafe", "!")
    assert ids("the cat?") == pieces("the", "cat", "?")
    assert ids("the cat,") == pieces("the", "cat", ",", ".")
    assert ids("a a a a a the cat") == pieces("a", "a", "a", "a", "a", "."), "five words, then the period"
    assert ids("a,a,a,a,a,a,a") == pieces("a", ",", "a", ",", "a", ","), "eight pieces, the last one [SEP]"
    assert ids("\u0130") == pieces("i", ".")
    assert ids("[SEP]") == pieces("[UNK]", "[UNK]", "[UNK]", "."), "lower-cased first, as everything"
    for empty in ("", " \n "):
        with pytest.raises(InputError, match="holds no word"):
            mmt(empty)


@pytest.fixture(scope="module", params=["bert", "mmt", "beit3"])
def any_tokenizer(request: pytest.FixtureRequest, folder: Path) -> Tokenizer:
    if request.param == "bert":
        return BertText(max_length=8, max_characters=400).load(folder)
    if request.param == "mmt":
        return BertText(max_length=8, max_words=5, sentence=True, max_characters=400).load(folder)
    if not BEIT3.is_dir():
        pytest.skip("the folder shared/oracles is not beside the project")
    return Beit3Text(max_length=8, max_characters=400).load(BEIT3)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (None, InputError, "must be a text"),
        (5, InputError, "must be a text"),
        (b"bytes", InputError, "must be a text"),
        (["a"], InputError, "must be a text"),
        ("a" * 401, TooLarge, "401 characters"),
        ("a \ud83d cat", InputError, "place 2"),
        ("\udcff", InputError, "place 0"),
    ],
)
def test_what_is_no_text_is_refused(any_tokenizer: Tokenizer, value: Any, error: type, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        any_tokenizer(value, "items[1].text")
    assert caught.type is error
    assert caught.value.field == "items[1].text"


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(), max_size=60))
@example(text="\0")
@example(text="<s>" * 100)
@example(text="[SEP]" * 80)
def test_any_text_gives_tokens_or_an_input_error(any_tokenizer: Tokenizer, text: str) -> None:
    try:
        tokens = any_tokenizer(text)
    except InputError:
        return
    assert tuple(tokens) == any_tokenizer.names
    for tensor in tokens.values():
        assert (tensor.shape, tensor.dtype) == ((8,), np.int64)
        assert tensor.min() >= 0


def test_several_threads_read_as_one(any_tokenizer: Tokenizer) -> None:
    texts = [f"the cat {'a ' * i} number {i}" for i in range(40)] * 5
    alone = [any_tokenizer(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        for expected, got in zip(alone, pool.map(any_tokenizer, texts), strict=True):
            for name in any_tokenizer.names:
                np.testing.assert_array_equal(got[name], expected[name])


def test_long_texts_take_no_time(folder: Path) -> None:
    tokenizers: list[Tokenizer] = [BertText(max_length=50).load(folder)]
    if BEIT3.is_dir():
        tokenizers.append(Beit3Text(max_length=64).load(BEIT3))
    start = time.process_time()
    for tokenizer in tokenizers:
        for text in ("a" * 10_000, "a " * 5_000, "." * 10_000, "\u0301" * 10_000, "<s>" * 3_333, "[SEP]" * 2_000):
            tokenizer(text)
    assert time.process_time() - start < 3


def test_tokenizers_load_fast(folder: Path, tmp_path: Path) -> None:
    full = VOCABULARY + "".join(f"word{i}\n" for i in range(30_000))
    (tmp_path / "tokenizer.json").write_text(bert_tokenizer_json(full, True), "utf-8")
    start = time.process_time()
    BertText(max_length=50).load(tmp_path)
    if BEIT3.is_dir():
        Beit3Text(max_length=64).load(BEIT3)
    assert time.process_time() - start < 1


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff\xfe", b'{"model": {"type": "BPE"}}', b"a\nb\n"])
@pytest.mark.parametrize("config", [BertText(max_length=9, file="f"), Beit3Text(max_length=9, file="f")])
def test_a_broken_file_is_a_broken_bundle(tmp_path: Path, config: BertText | Beit3Text, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "f").write_bytes(content)
    with pytest.raises(BundleError, match=r"^f is "):
        config.load(tmp_path)


def test_a_tokenizer_of_another_kind_is_a_broken_bundle(tmp_path: Path) -> None:
    whole = json.loads(bert_tokenizer_json(VOCABULARY, True))
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole | {"post_processor": None}))
    with pytest.raises(BundleError, match="no tokenizer of BERT"):
        BertText(max_length=9).load(tmp_path)
    with pytest.raises(BundleError, match=r"lacks \[MASK\]"):
        bert_tokenizer_json(VOCABULARY.replace("[MASK]", "mask"), True)


def test_preprocessing_is_stored_in_a_manifest() -> None:
    reader: TypeAdapter[BertText | Beit3Text] = TypeAdapter(TextPreprocessing)
    for config in (BertText(max_length=30, max_words=30, sentence=True, lower_case=True), Beit3Text(max_length=64)):
        assert reader.validate_python(json.loads(config.model_dump_json())) == config
    for wrong in (
        {"kind": "bert", "max_length": 2},
        {"kind": "bert", "max_length": 9, "words": 3},
        {"kind": "gpt", "max_length": 9},
        *({"kind": "bert", "max_length": 9, "file": name} for name in ("../x", "/etc/passwd", "a/b", "..", "", "a\n")),
    ):
        with pytest.raises(ValidationError):
            reader.validate_python(wrong)


def test_a_tokenizer_file_is_the_same_bytes_each_time() -> None:
    assert bert_tokenizer_json(VOCABULARY, True) == bert_tokenizer_json(VOCABULARY, True)
