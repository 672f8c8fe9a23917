"""The two comparisons of graphs of one model: they run, and compare what they say."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import attention_forms, each_fold
from benchmarks._models import MODELS, SEED, named
from export.fold import fold
from wander.backbones import Host
from wander.backbones.base import run
from wander.backbones.beit3 import BEiT3
from wander.backbones.late_fusion import LateFusion
from wander.errors import CheckpointError


def late() -> Host:
    """Two modalities, and no adapter."""
    config, _, head = LateFusion.example()
    update = {key: getattr(config, key)[:2] for key in ("modalities", "feature_dims", "lengths")}
    return LateFusion.build(config.model_copy(update=update), None, head)


def image_text() -> Host:
    return BEiT3.build(*BEiT3.example())


def seeded(build: Callable[[], Host]) -> Host:
    torch.manual_seed(SEED)
    return build().eval().requires_grad_(False)


@pytest.fixture(autouse=True)
def _tiny_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest of two families: what the shipped ones need is seconds to trace, again and again."""
    monkeypatch.setitem(MODELS, "late", lambda _: seeded(late))
    monkeypatch.setitem(MODELS, "image_text", lambda _: seeded(image_text))


def test_both_forms_of_attention_are_timed(tmp_path: Path) -> None:
    attention_forms.main("image_text,late", "1", "ort", 1, 1, tmp_path / "forms")
    text = (tmp_path / "forms.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert [row[0] for row in rows] == [
        "| image_text, image",
        "| image_text, text",
        "| late, model",
    ]
    assert [row[4] == "the exported" for row in rows] == [True, True, False]
    assert all(float(row[-1].strip("| ")) < 1e-5 for row in rows)


def test_every_fold_is_left_out_once(tmp_path: Path) -> None:
    each_fold.main("late", "1", 1, tmp_path / "folds")
    text = (tmp_path / "folds.md").read_text(encoding="utf-8")
    found = [line.split(" | ")[1] for line in text.splitlines() if line.startswith("| late")]
    assert found == fold(named("late"))
    assert len(found) > 1


@pytest.mark.parametrize("left_out", ["tokens_last", "bounded_scores", "adapter", "encoder_scales"])
def test_a_model_without_one_fold_answers_as_with_all(left_out: str) -> None:
    """A fold must not count on another that was left out."""
    whole = named("mosi-sentiment").double().eval()
    inputs = whole.random_inputs("model", 2, np.random.default_rng(0))
    part = each_fold.without("mosi-sentiment", left_out).double().eval()
    with torch.no_grad():
        a, b = (run(host.towers("x")["model"], inputs)["x"] for host in (whole, part))
    assert np.abs(a - b).max() < 1e-5  # its weights were folded in float32


def test_an_unknown_model_is_no_empty_report(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no-such-model"):
        each_fold.main("no-such-model", "1", 1, tmp_path / "folds")
    assert not (tmp_path / "folds.md").exists()
