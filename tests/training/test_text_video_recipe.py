"""The recipe for text-video retrieval on a tiny data set: what is trained, what is not, and what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from tests.training.said import write_said
from wander.checkpoints import folder
from wander.errors import ConfigError, UsageError
from wander.tasks import tasks
from wander.training.cli import train
from wander.training.datasets import open_dataset
from wander.training.evaluation import draft_manifest, evaluate
from wander.training.recipes._frozen_mmt import contrastive
from wander.training.recipes._stand_in_corpus import NOBODY, Captions, Watching
from wander.training.recipes.text_video import (
    MMT,
    TextVideo,
    TextVideoSettings,
    host_config,
    train_adapted,
    train_host,
)

TINY: dict[str, Any] = {
    "tokens": 2,
    "most_words": 8,
    "embed_dim": 16,
    "num_heads": 2,
    "ffn_dim": 8,
    "text_width": 16,
    "text_ffn_dim": 8,
    "down_dim": 8,
    "rank_h": 2,
    "rank_t": 2,
    "host": {"epochs": 2, "batch_size": 12},
    "adapter": {"epochs": 3, "batch_size": 12},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_said(tmp_path_factory.mktemp("data") / "said")


@pytest.fixture(scope="module")
def settings() -> TextVideoSettings:
    return TextVideoSettings.model_validate(TINY)


@pytest.fixture(scope="module")
def captions(data: Path, settings: TextVideoSettings) -> Captions:
    return Captions(data, settings.tokens, settings.most_words)


def silent(*_: object) -> None:
    pass


@pytest.fixture(scope="module")
def host(captions: Captions, settings: TextVideoSettings) -> MMT:
    return train_host(captions, settings, 0, silent)[0]


def changed(before: MMT, after: MMT) -> set[str]:
    """First parts of the names of what differs."""
    old = before.state_dict()
    return {
        n.split(".")[0] for n, value in after.state_dict().items() if n not in old or not torch.equal(old[n], value)
    }


@pytest.mark.parametrize(("head_only", "learnt"), [(False, {"adapter", "moe_fc_txt"}), (True, {"moe_fc_txt"})])
def test_only_adapter_and_weights_learn_over_the_frozen_host(
    captions: Captions, settings: TextVideoSettings, host: MMT, head_only: bool, learnt: set[str]
) -> None:
    before = {name: value.clone() for name, value in host.state_dict().items()}
    adapted, report = train_adapted(captions, settings, host, 0, silent, head_only=head_only)
    assert changed(host, adapted) == learnt
    assert all(torch.equal(value, before[name]) for name, value in host.state_dict().items())
    assert report["pairs"] == 4 * 12
    if not head_only:
        assert adapted.adapter_module.config.readout == "experts"
        assert bool(adapted.adapter_module.factor_t_list[-1].any())


def test_a_batch_is_what_the_task_would_make_of_it(captions: Captions, data: Path, host: MMT, tmp_path: Path) -> None:
    """But for the rounding of features to float16."""
    trained = TextVideo().train(data, TextVideoSettings.model_validate(TINY), seed=0)
    for name, content in trained.assets.items():
        (tmp_path / name).write_bytes(content)
    task = tasks.get("text_video")(draft_manifest(trained.about, trained.host), tmp_path)
    chosen = captions.valid
    examples = captions.examples(chosen, 0)
    ids, hands = examples.inputs
    names = [spec.name for spec in host.towers("")["video"].signature.inputs]
    tensors = dict(zip(names, Watching(host, captions).video(hands), strict=True))
    numbers = {number: caption for caption, number in captions._numbers.items()}
    for row, video in enumerate(chosen):
        np.testing.assert_array_equal(
            task.operation("embed").preprocess({"text": video.query})["text"]["input_ids"], ids[row][ids[row] != 0]
        )
        seen: dict[str, Any] = {}
        for place, (name, width) in enumerate(captions.widths.items()):
            own = [numbers[int(n)] for n in hands[row, place] if n != NOBODY]
            assert set(own) <= set(video.others)
            if own:
                seen[name] = {"features": captions.made.rows(own, name, width)}
        made = task.operation("embed").preprocess({"video": {"experts": seen}})["video"]
        for name, value in made.items():
            np.testing.assert_allclose(tensors[name][row].numpy(), value, atol=1e-3)


def test_the_start_is_already_better_than_chance(captions: Captions, settings: TextVideoSettings) -> None:
    _, report = train_host(captions, settings, 0, silent)
    assert report["aligned"]["text_to_video.mnr"] < (len(captions.valid) + 1) / 2


def test_another_pair_of_the_same_video_does_not_count() -> None:
    torch.manual_seed(0)
    vectors = torch.randn(4, 6)
    owners = torch.tensor([0, 0, 1, 2])
    query, video = (part.double().numpy() / np.sqrt(0.5) for part in vectors.chunk(2, 1))
    scores = query @ video.T
    scores[0, 1] = scores[1, 0] = -np.inf
    rows = [np.log(np.exp(s).sum(1)) - np.diag(s) for s in (scores, scores.T)]
    assert float(contrastive(0.5)(vectors, owners)) == pytest.approx(np.mean(rows), rel=1e-5)


def test_equal_seeds_give_equal_weights(data: Path, settings: TextVideoSettings) -> None:
    first, again, other = (TextVideo().train(data, settings, seed=seed) for seed in (1, 1, 2))
    assert changed(first.host, again.host) == set()
    assert changed(first.host, other.host)


def test_the_test_split_is_not_opened(tmp_path: Path, settings: TextVideoSettings) -> None:
    data = write_said(tmp_path / "said")
    for name in ("msrvtt_1ka_test.csv", "msrvtt_captions_1ka_test.csv"):
        (data / name).write_bytes(b"\xff\xfe not for reading")
    assert TextVideo().train(data, settings).about.provenance["valid"]


def test_the_command_writes_what_can_be_measured(data: Path, tmp_path: Path) -> None:

    app = typer.Typer()
    app.command()(train)
    options = [part for name, value in TINY.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    command = ["text-video", "--data", str(data), "--out", str(tmp_path / "out"), *options]
    result = CliRunner().invoke(app, [*command, "--json"])
    assert result.exit_code == 0, result.output
    loaded = folder.load(tmp_path / "out" / "adapter", tmp_path / "out" / "backbone")
    assert set(loaded.assets) == {"tokenizer.json"}
    assert "stand in" in loaded.about.provenance["proxy"]
    found = evaluate(tmp_path / "out", data, "test")
    assert found.rows == {"text": 5, "video": 5}
    assert len(found.metrics) == 10
    item = json.loads((tmp_path / "out" / "example.json").read_text())
    task = tasks.get("text_video")(draft_manifest(loaded.about, loaded.host), tmp_path / "out" / "adapter")
    assert set(task.operation("score").preprocess(item)) == {"text", "video"}


def test_settings_that_cannot_be_and_other_data_are_refused(captions: Captions, mosi_like: Path) -> None:
    wrong = TextVideoSettings.model_validate(TINY | {"num_heads": 3})
    with pytest.raises(ConfigError, match=r"do not fit together.*num_heads 3"):
        host_config(captions, wrong)
    with pytest.raises(UsageError, match="holds no captions of videos"):
        Captions(mosi_like, 2, 8)


@pytest.fixture
def mosi_like(tiny_data: Path) -> Path:
    open_dataset(tiny_data)
    return tiny_data
