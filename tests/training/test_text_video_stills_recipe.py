"""The recipe that learns from still pictures: what its pairs are, and a checkpoint that takes video files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from tests.extractors.making import video
from tests.training.captioned import write_captioned
from tests.training.said import write_said
from tests.training.test_text_video_recipe import TINY
from wander.checkpoints import folder
from wander.errors import UsageError
from wander.extractors._clip import Wanted, read_clip
from wander.tasks import tasks
from wander.training.cli import train
from wander.training.datasets import load_rows
from wander.training.datasets._stills import still
from wander.training.evaluation import draft_manifest, evaluate
from wander.training.recipes._stand_in_corpus import NOBODY
from wander.training.recipes._still_corpus import VIEWS, Stills
from wander.training.recipes.text_video_stills import EXTRACTORS, StillSettings, TextVideoStills


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One picture of the validation split is as large as photographs are."""
    folder = write_captioned(tmp_path_factory.mktemp("data") / "pictures", {"train": 24, "valid": 8, "test": 4})
    noise = np.random.default_rng(0).integers(0, 256, (240, 300, 3), np.uint8)
    Image.fromarray(noise).save(folder / "images" / "valid0.png")
    said = folder / "captions.csv"
    said.write_text(re.sub(r"(valid0\.png,\d,valid),24,20", r"\1,300,240", said.read_text("utf-8")), "utf-8")
    return folder


@pytest.fixture(scope="module")
def stills(data: Path) -> Stills:
    return Stills(data, EXTRACTORS, tokens=3, most_words=8, seed=0)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "out"
    app = typer.Typer()
    app.command()(train)
    flat = [f"{n}={v}" for n, v in TINY.items() if not isinstance(v, dict)]
    flat += [f"{n}.{m}={v}" for n, own in TINY.items() if isinstance(own, dict) for m, v in own.items()]
    options = [part for one in flat for part in ("--set", one)]
    arguments = ["text-video-stills", "--data", str(data), "--out", str(out), *options]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return out


def test_a_picture_is_a_video_of_itself(data: Path) -> None:
    picture = (data / "images" / "train0.png").read_bytes()
    clip = read_clip(still(picture, 24, 20), Wanted(step=1, side=20, sound=False))
    assert clip.pictures.shape == (1, 20, 24, 3)
    assert clip.times.tolist() == [0]
    red = clip.pictures[0].mean((0, 1))
    np.testing.assert_allclose(red, (220, 30, 30), atol=12)


def test_a_pair_has_views_of_its_own_picture(stills: Stills) -> None:
    assert len(stills.train) == 48
    assert stills.tables["colours"].shape == (24 * VIEWS + 8, 900)
    ids, hands = stills.examples(stills.train, 0).inputs
    assert hands.shape == (48, 2, 3)
    assert (hands[:, 0] == hands[:, 1]).all()
    for place, pair in enumerate(stills.train):
        own = hands[place][hands[place] != NOBODY]
        assert len(own)
        assert set(own.tolist()) <= set(stills._views[pair.id])
    assert torch.equal(stills.examples(stills.train, 0).inputs[1], hands)
    assert not torch.equal(stills.examples(stills.train, 1).inputs[1], hands)
    assert (ids[:, 0] != 0).all()
    valid = stills.examples(stills.valid, 0).inputs[1]
    assert (valid[:, :, 1:] == NOBODY).all()


def test_the_whole_picture_is_seen_as_a_server_sees_it(stills: Stills, data: Path, trained: Path) -> None:
    loaded = folder.load(trained / "adapter", trained / "backbone")
    task = tasks.get("text_video")(draft_manifest(loaded.about, loaded.host), trained / "adapter")
    rows = load_rows(data, "valid", task)["video"].items
    for row, place in zip(rows, range(24 * VIEWS, 24 * VIEWS + 8), strict=True):
        for name, table in stills.tables.items():
            np.testing.assert_allclose(row[f"features_{name}"][0], table[place], atol=1e-6)


def test_what_is_trained_takes_video_files(trained: Path, data: Path) -> None:
    loaded = folder.load(trained / "adapter", trained / "backbone")
    assert loaded.about.task == "text_video"
    assert loaded.about.provenance["demonstration"]
    task = tasks.get("text_video")(draft_manifest(loaded.about, loaded.host), trained / "adapter")
    calls = task.operation("embed").preprocess({"video": video(30)})
    assert calls["video"]["mask"].all()
    score = task.operation("score")
    score.preprocess(json.loads((trained / "example.json").read_text()))
    assert evaluate(trained, data).rows == {"text": 8, "video": 4}
    valid = evaluate(trained, data, "valid").metrics
    assert loaded.about.provenance["valid"] == pytest.approx(valid, abs=1e-4)


def test_equal_seeds_give_equal_weights(data: Path) -> None:
    settings = StillSettings.model_validate(TINY)
    one, two = (TextVideoStills().train(data, settings, seed=3).host.state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_other_data_are_refused(tmp_path: Path) -> None:
    said: Any = write_said(tmp_path / "said")
    with pytest.raises(UsageError, match="no pictures with captions"):
        TextVideoStills().train(said, StillSettings.model_validate(TINY))
