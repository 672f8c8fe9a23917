"""Attention as products or as ONNX's operator: what a bundle gets, and how `auto` decides."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from export import attention
from export.attention import GAIN, OPERATOR, Wanted
from export.compose import compose
from export.options import Options
from export.parity import verify
from export.pipeline import export
from export.trace import OPSETS
from wander.backbones import Host
from wander.backbones._attention import Form
from wander.backbones.late_fusion import LateFusion
from wander.bundle import Bundle
from wander.checkpoints import folder
from wander.errors import EngineError, UsageError


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose heads are wide enough to keep their usual layout."""
    torch.manual_seed(0)
    config, adapter, head = LateFusion.example()
    assert adapter is not None
    config = config.model_copy(update={"embed_dim": 32})
    host = LateFusion.build(config, adapter.model_copy(update={"embed_dim": 32}), head)
    about = folder.Description(task="emotion", labels=("calm", "glad"), provenance={"weights": "random"})
    out = tmp_path_factory.mktemp("wide") / "converted"
    folder.save(host, head.model_dump(), about, out, "random-backbone")
    return out


def exported(checkpoint: Path, out: Path, wanted: Wanted) -> tuple[Bundle, dict[str, Any]]:
    """The bundle, and what its report says of the model's attention."""
    bundle = export(compose(checkpoint), out / "model", Options(max_batch_size=8, explain=False, attention=wanted))
    assert bundle.parity["passed"]
    assert all(check.passed for check in verify(bundle, "ort"))
    assert {path.name for path in bundle.path.iterdir()} <= {*bundle.manifest.files, "manifest.json", "samples"}
    return bundle, bundle.parity["attention"]["model"]


def opset_and_operators(bundle: Bundle) -> tuple[int, int]:
    graph = onnx.load(bundle.graph_path("model"))
    assert bundle.manifest.producer["opset"] == str(graph.opset_import[0].version)
    return graph.opset_import[0].version, sum(node.op_type == OPERATOR for node in graph.graph.node)


@pytest.fixture(scope="module")
def asked(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Form, tuple[Bundle, dict[str, Any]]]:
    """The checkpoint in each form."""
    return {form: exported(wide, tmp_path_factory.mktemp(form), form) for form in OPSETS}


@pytest.fixture
def _traced(asked: dict[Form, tuple[Bundle, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that was traced is taken as it is: tracing is what takes time."""

    def trace(_: Host, name: str, __: str, path: Path, form: Form) -> None:
        shutil.copyfile(asked[form][0].graph_path(name), path)

    monkeypatch.setattr(attention, "trace", trace)


@pytest.mark.parametrize(("wanted", "found"), [("products", (20, 0)), ("operator", (23, 3))])
def test_a_graph_has_the_form_that_was_asked_for(
    wanted: Form, found: tuple[int, int], asked: dict[Form, tuple[Bundle, dict[str, Any]]]
) -> None:
    bundle, said = asked[wanted]
    assert opset_and_operators(bundle) == found
    assert said == {"opset": found[0], "form": wanted, "ratios": {}, "note": ""}


@pytest.mark.usefixtures("_traced")
@pytest.mark.parametrize(
    ("ratios", "found"),
    [((0.5, 1.0), (23, 3)), ((0.8 * GAIN, GAIN / 0.8 + 1e-6), (20, 0))],
)
def test_the_operator_is_taken_where_it_is_faster_over_all_batches(
    ratios: tuple[float, float], found: tuple[int, int], wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = iter(ratios)
    monkeypatch.setattr(attention, "compare", lambda *_: next(told))
    bundle, said = exported(wide, tmp_path, "auto")
    assert opset_and_operators(bundle) == found
    assert said["ratios"] == {"1": ratios[0], "8": ratios[1]}


@pytest.mark.usefixtures("_traced")
def test_both_forms_are_really_timed(wide: Path, tmp_path: Path) -> None:
    bundle, said = exported(wide, tmp_path, "auto")
    assert set(said["ratios"]) == {"1", "8"}
    assert all(ratio > 0 for ratio in said["ratios"].values())
    assert opset_and_operators(bundle)[0] == said["opset"]


@pytest.mark.usefixtures("_traced")
def test_an_engine_that_cannot_run_the_operator_gets_products(
    wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> float:
        raise EngineError("no such operator")

    monkeypatch.setattr(attention, "compare", fail)
    bundle, said = exported(wide, tmp_path, "auto")
    assert opset_and_operators(bundle) == (20, 0)
    assert said["note"] == "ort cannot run the operator: no such operator"


def test_there_is_nothing_to_choose_without_attention_of_that_kind(checkpoint: Path, tmp_path: Path) -> None:
    """Narrow heads are laid out along the tokens, which the operator does not do."""
    bundle, said = exported(checkpoint, tmp_path, "auto")
    assert opset_and_operators(bundle) == (20, 0)
    assert said["note"] == "no attention that the operator computes"


def test_a_session_that_takes_longer_counts_as_longer() -> None:
    class Slow:
        def __init__(self, work: int) -> None:
            self.work = work

        def run(self, inputs: object) -> None:
            sum(range(self.work))

    assert attention.compare(Slow(200_000), Slow(20_000), {}) > 2  # type: ignore[arg-type]
    assert attention.compare(Slow(20_000), Slow(200_000), {}) < 0.5  # type: ignore[arg-type]


@pytest.mark.parametrize(("wanted", "said"), [("products", 0), ("auto", 1)])
def test_the_command_says_what_was_tried_and_nothing_else(
    wanted: Wanted, said: int, wide: Path, tmp_path: Path
) -> None:
    arguments = ["export", str(wide), str(tmp_path / "model"), "--no-explain", "--attention", wanted]
    done = subprocess.run([sys.executable, "-m", "wander", *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.count("attention as") == said
    assert done.stdout.count("time with the operator over that with products: ") == said


def test_what_is_narrowed_has_products() -> None:
    with pytest.raises(UsageError, match="form of attention is open in fp32 only"):
        _ = Options(precision="bf16", attention="auto").narrowing
