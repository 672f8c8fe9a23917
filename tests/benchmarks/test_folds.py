import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.folds import QUICK, VARIANTS, ZOO, cases, count_flops, inputs_of
from export.fold import fold
from tests.benchmarks.running import quick
from wander.adapters.wander import Wander
from wander.backbones.base import run
from wander.backbones.late_fusion import LateFusion
from wander.checkpoints import folder


def test_a_quick_run_measures_every_variant(tmp_path: Path) -> None:
    found = quick("folds", tmp_path / "folds.json", "--zoo", str(tmp_path))
    assert [case["name"] for case in found["cases"]] == [
        "late fusion, 3 × 0 layers",
        "adapter alone, 1 of 16 tokens read",
    ]
    for case in found["cases"]:
        assert [(row["threads"], row["batch"]) for row in case["timings"]] == [(1, 1), (1, 2)]
        for row in case["timings"]:
            assert tuple(row["ms"]) == tuple(row["to_eager"]) == VARIANTS
            assert all(spread["lower"] > 0 for spread in row["ms"].values())
            assert row["to_eager"][VARIANTS[0]]["median"] == 1
        unfolded, rewritten = case["counts"]["unfolded"], case["counts"]["folded"]
        assert all(rewritten[what] < unfolded[what] for what in ("parameters", "flops", "nodes"))
        assert case["max_abs_reference"] > 0.01
        assert all(error < 1e-5 * max(1, case["max_abs_reference"]) for error in case["max_abs_difference"].values())


@pytest.mark.parametrize("number", [0, 1])
def test_the_models_have_an_adapter_that_counts_and_folds_exactly(number: int) -> None:
    case = list(cases(QUICK, Path("nowhere")))[number]
    case.host.double()
    inputs = inputs_of(case, 3)
    (reference,) = run(case.host.towers("output")["model"], inputs).values()
    rewritten = copy.deepcopy(case.host)
    names = fold(rewritten)
    (answer,) = run(rewritten.towers("output")["model"], inputs).values()
    assert "adapter" in names
    assert np.abs(answer - reference).max() < 1e-9
    assert case.host.adapter_module is not None
    case.host.adapter_module.zero_()
    (bypassed,) = run(case.host.towers("output")["model"], inputs).values()
    assert np.abs(bypassed - reference).max() > 1e-3


def test_flops_are_counted_as_the_adapter_counts_them() -> None:
    case = list(cases(QUICK, Path("nowhere")))[1]
    assert isinstance(case.host.adapter_module, Wander)
    counted = count_flops(case.host.towers("output")["model"], inputs_of(case, 1))
    assert counted == Wander.flops(case.host.adapter_module.config)


def test_the_shipped_model_is_measured_if_it_is_there(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config, adapter, _ = LateFusion.example()
    head = {"out_dim": 1}
    host = LateFusion.build(config, adapter, LateFusion.Head.model_validate(head))
    folder.save(host, head, folder.Description(task="sentiment"), tmp_path / ZOO.name, "tests")
    found = list(cases(QUICK, tmp_path / ZOO.name))
    assert [case.name for case in found][1] == "mosi-sentiment"
    assert found[1].output == "score"
