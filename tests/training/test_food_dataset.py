"""The food data set: images with the ingredients of their recipe, by split."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.oracles import SHARED
from wander.errors import UsageError
from wander.training.datasets import open_dataset

DATA = SHARED / "data" / "food"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"A")
    (tmp_path / "images" / "b.jpg").write_bytes(b"B")
    header = "image,split,label,label_name,width,height,recipe_id\n"
    (tmp_path / "images.csv").write_text(header + "a.jpg,train,1,soup,1,1,7\nb.jpg,test,0,cake,1,1,8\n")
    header = "recipe_id,label,label_name,split,title,ingredients,source\n"
    (tmp_path / "recipes.csv").write_text(header + '7,1,soup,train,Soup,"salt, water",x\n8,0,cake,test,Cake,flour,x\n')
    return tmp_path


def test_items_are_images_with_ingredients(tiny: Path) -> None:
    split = open_dataset(tiny).load(tiny, "train", ())
    assert split.items == [{"image": b"A", "text": "salt, water"}]
    assert (split.labels.tolist(), split.ids, split.groups) == ([1], ["a.jpg"], ["7"])


def test_an_unknown_split_is_refused(tiny: Path) -> None:
    with pytest.raises(UsageError, match="no split 'valid'"):
        open_dataset(tiny).load(tiny, "valid", ())


@pytest.mark.skipif(not DATA.is_dir(), reason="the folder shared/data/food is not beside the project")
def test_the_real_data_set() -> None:
    dataset = open_dataset(DATA)
    sizes = {name: len(dataset.load(DATA, name, ())) for name in ("train", "valid", "test")}
    assert sizes == {"train": 700, "valid": 100, "test": 160}
