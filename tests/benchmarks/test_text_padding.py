from pathlib import Path

import numpy as np
import pytest

from benchmarks.text_padding import LONGEST, MAXIMUM, ROWS, SHIPPED, UNPADDED, VARIANTS, ZOO, Pool
from tests.benchmarks.running import quick
from tests.oracles import SHARED

DATA = SHARED / "data"
BESIDE = ZOO / "flickr8k-image-text" / "adapter"


def pool() -> Pool:
    texts = [" ".join(["dog"] * (1 + number % 3)) for number in range(100)]
    return Pool.of(texts, {"kind": "beit3", "file": "captions.spm", "max_length": 32, "pad": False}, BESIDE, 12)


def test_every_text_is_in_one_batch_and_only_padding_is_cut() -> None:
    found = pool()
    for variant in VARIANTS:
        numbers = np.concatenate([own for own, _ in found.batches(variant)])
        assert sorted(numbers) == list(range(100))
        for own, arrays in found.batches(variant):
            assert len(own) <= ROWS
            assert ((arrays["padding_mask"] == 0).sum(1) == found.lengths[own]).all()


def test_batches_are_as_wide_as_the_variant_says() -> None:
    found = pool()
    assert {arrays["text_ids"].shape[1] for _, arrays in found.batches(MAXIMUM)} == {12}
    assert {arrays["text_ids"].shape[1] for _, arrays in found.batches(LONGEST)} == {found.lengths.max()}
    for own, arrays in found.batches(UNPADDED):
        assert set(found.lengths[own]) == {arrays["text_ids"].shape[1]}
        assert not arrays["padding_mask"].any()
    assert [len(own) for own, _ in found.batches(UNPADDED)] == [32, 2, 32, 1, 32, 1]


@pytest.mark.skipif(
    not all((DATA / name).is_dir() for name in ("flickr8k", "msrvtt")),
    reason="the folders shared/data/flickr8k and msrvtt are not beside the project",
)
def test_a_quick_run_measures_every_way_and_the_vectors_are_the_same(tmp_path: Path) -> None:
    found = quick("text_padding", tmp_path / "padding.json", str(DATA))
    assert [row["model"] for row in found["rows"]] == list(SHIPPED)
    for row in found["rows"]:
        assert row["texts"] == 40
        assert tuple(row["ms_a_text"]) == tuple(row["batches"]) == VARIANTS
        assert all(spread["lower"] > 0 for spread in (*row["ms_a_text"].values(), *row["to_maximum"].values()))
        assert row["lengths"]["min"] < row["lengths"]["mean"] < row["lengths"]["max"] <= row["maximum"]
        assert row["batches"][MAXIMUM] == row["batches"][LONGEST] == 2
        assert row["lengths"]["distinct"] <= row["batches"][UNPADDED]
        assert all(difference < 1e-5 for difference in row["max_abs_difference"].values())
