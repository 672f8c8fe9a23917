"""The two scripts of full size, run on the smallest models of the same families."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks import adapter_cost, full_size
from benchmarks._models import MODELS, SEED
from wander.backbones import Host
from wander.backbones.beit3 import BEiT3
from wander.backbones.bert_vit import BertViT


def tiny(family: type[BertViT] | type[BEiT3]) -> Callable[[bool], Host]:
    def make(adapted: bool = True) -> Host:
        torch.manual_seed(SEED)
        config, adapter, head = family.example()
        if isinstance(config, BEiT3.Config):
            config = config.model_copy(update={"vocab_size": 64010})
        host = family.build(config, adapter if adapted else None, head)
        for parameter in host.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        return host.eval().requires_grad_(False)

    return make


@pytest.fixture(autouse=True)
def _tiny_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of those of 200 and 675 million parameters."""
    for name in list(MODELS):
        monkeypatch.delitem(MODELS, name)
    monkeypatch.setitem(MODELS, "food", tiny(BertViT))
    monkeypatch.setitem(MODELS, "image_text", tiny(BEiT3))


Written = tuple[Host, dict[str, dict[str, Path]]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Every variant of one model, traced once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "image_text", tiny(BEiT3))
        return adapter_cost.write_graphs("image_text", tmp_path_factory.mktemp("written"), adapter_cost.progress())


def test_the_cost_of_an_adapter_is_measured_for_every_tower_and_batch(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_cost, "write_graphs", lambda *_: written)
    adapter_cost.main("image_text", "1,2", tokens=5, rounds=2, cpu_time=True, out=tmp_path / "cost.json")
    rows = json.loads((tmp_path / "cost.json").read_text(encoding="utf-8"))["rows"]
    assert [(row["model"], row["tower"], row["batch"]) for row in rows] == [
        ("image_text", tower, batch) for tower in ("image", "text") for batch in (1, 2)
    ]
    for row in rows:
        assert set(row["ms"]) == set(adapter_cost.VARIANTS)
        assert all(spread["lower"] > 0 for spread in row["ms"].values())
        assert set(row["ratios"]) == set(adapter_cost.RATIOS)
        assert all(spread["lower"] > 0 for spread in row["ratios"].values())
    assert "| image_text, text, 2 |" in (tmp_path / "cost.md").read_text(encoding="utf-8")


def test_the_variants_are_adapted_and_plain(written: Written) -> None:
    """The plain graphs agree with each other and differ from the adapted one."""
    host, graphs = written
    arrays = adapter_cost.inputs(host, "text", 2, 5)
    engine = adapter_cost.engines.get(adapter_cost.DEFAULT_ENGINE)
    signature = host.towers("logits")["text"].signature
    found = {}
    for variant, path in graphs["text"].items():
        with engine.open(path, signature, adapter_cost.EngineOptions()) as session:
            found[variant] = session.run(arrays)["text_embedding"]
    assert abs(found[adapter_cost.PLAIN] - found[adapter_cost.PRUNED]).max() < 1e-5
    assert abs(found[adapter_cost.PLAIN] - found[adapter_cost.FOLDED]).max() < 1e-5
    assert abs(found[adapter_cost.PLAIN] - found[adapter_cost.ADAPTED]).max() > 1e-2


def test_exports_and_speeds_are_reported_and_what_was_found_before_stays(tmp_path: Path) -> None:
    full_size.main("food", "", tokens=5, rounds=1, compiling=True, out=tmp_path / "full.json")
    full_size.main("image_text", "1", tokens=5, rounds=2, compiling=False, out=tmp_path / "full.json")
    models = json.loads((tmp_path / "full.json").read_text(encoding="utf-8"))["models"]
    assert list(models) == ["food", "image_text"]
    assert [len(one["rows"]) for one in models.values()] == [0, 2]  # the first was exported alone
    for one in models.values():
        assert one["parameters"] > 0
        assert one["export"]["peak_memory_bytes"] > one["export"]["bundle_bytes"] > 0
        assert one["export"]["max_rel"] <= 1e-5
        for row in one["rows"]:
            assert set(row["ms_per_item"]) == {full_size.ORT, full_size.EAGER}
            assert set(row["speedup"]) == {full_size.EAGER}
    text = (tmp_path / "full.md").read_text(encoding="utf-8")
    assert "- image_text, text, batch 1: no torch.compile: not asked for" in text


def test_why_nothing_was_compiled_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    host = MODELS["food"](True)
    tower = host.towers("logits")["model"]
    arrays = adapter_cost.inputs(host, "model", 1, 5)
    assert full_size.compiles(tower, arrays) is None

    def fail(*_: object) -> None:
        raise RuntimeError("no compiler\nand much more")

    monkeypatch.setattr(full_size, "run", fail)
    assert full_size.compiles(tower, arrays) == "no compiler"
