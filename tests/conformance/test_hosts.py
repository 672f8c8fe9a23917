"""One suite for every host family: a new file in `wander/backbones` is tested here without a change."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from wander.backbones import Host, hosts
from wander.backbones._attention import attention_form
from wander.backbones.base import run
from wander.checkpoints import folder
from wander.errors import CheckpointError

KINDS = hosts.names()
each_host = pytest.mark.parametrize("kind", KINDS)


def filled(kind: str) -> Host:
    """A small host in which every weight matters."""
    torch.manual_seed(0)
    family = hosts.get(kind)
    host = family.build(*family.example()).eval()
    if host.adapter_module is not None:
        for parameter in host.adapter_module.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return host


def answers(host: Host, rows: int = 3) -> dict[str, np.ndarray]:
    found = {}
    for name, tower in host.graphs("output").items():
        inputs = host.random_inputs(name, rows, np.random.default_rng(1))
        tower.signature.check(inputs)
        found |= {f"{name}.{key}": value for key, value in run(tower, inputs).items()}
    return found


@each_host
def test_the_outputs_are_what_the_signature_says(kind: str) -> None:
    host = filled(kind)
    for name, tower in host.graphs("output").items():
        for rows in (1, 2, 5):
            inputs = host.random_inputs(name, rows, np.random.default_rng(0))
            assert tower.signature.check(inputs) == rows
            outputs = run(tower, inputs)
            for spec in tower.signature.outputs:
                spec.check(outputs[spec.name])
                assert len(outputs[spec.name]) == rows


@each_host
def test_a_row_does_not_depend_on_its_batch_mates(kind: str) -> None:
    host = filled(kind).double()
    for name, tower in host.graphs("output").items():
        inputs = host.random_inputs(name, 4, np.random.default_rng(2))
        together = run(tower, inputs)
        alone = run(tower, {key: value[2:3] for key, value in inputs.items()})
        for key, value in alone.items():
            np.testing.assert_allclose(together[key][2:3], value, rtol=0, atol=1e-12)


@each_host
def test_each_fold_is_exact(kind: str) -> None:
    """Law 1: < 1e-9 in float64 and < 1e-5 relative in float32, after every single fold."""
    single, double = filled(kind), filled(kind).double()
    exact, rounded = answers(double), answers(single)
    for fold_single, fold_double in zip(single.folds(), double.folds(), strict=True):
        fold_single.apply()
        fold_double.apply()
        for key, value in answers(double).items():
            assert float(np.abs(value - exact[key]).max()) < 1e-9, fold_double.name
        for key, value in answers(single).items():
            scale = max(1.0, float(np.abs(rounded[key]).max()))
            assert float(np.abs(value - rounded[key]).max()) < 1e-5 * scale, fold_single.name


@each_host
@pytest.mark.parametrize("folded", [False, True])
def test_attention_is_the_same_in_every_form(kind: str, folded: bool) -> None:
    host = filled(kind).double()
    for fold in host.folds() if folded else ():
        fold.apply()
    products = answers(host)
    with attention_form("operator"):
        for key, value in answers(host).items():
            assert float(np.abs(value - products[key]).max()) < 1e-9


@each_host
def test_zeroing_the_adapter_changes_the_answer(kind: str) -> None:
    """Law 3: no silent bypass."""
    host = filled(kind)
    assert host.adapter_module is not None
    before = answers(host)
    host.adapter_module.zero_()
    assert any(not np.allclose(before[key], value) for key, value in answers(host).items())


@each_host
def test_adapter_and_backbone_survive_their_folders(kind: str, tmp_path: Path) -> None:
    host = filled(kind)
    _, _, head = hosts.get(kind).example()
    about = folder.Description(task="tensors", labels=("a",), provenance={"weights": "random"})
    folder.save(host, head.model_dump(), about, tmp_path / "out", "a-backbone")
    again = folder.load(tmp_path / "out" / "adapter", tmp_path / "out" / "backbone")
    assert again.about.labels == ("a",)
    for key, value in answers(again.host).items():
        np.testing.assert_array_equal(value, answers(host)[key])


@each_host
def test_strict_loading_names_every_tensor_that_does_not_fit(kind: str) -> None:
    host = filled(kind)
    adapted, frozen = host.split_state()
    assert set(adapted).isdisjoint(frozen)
    gone = next(iter(adapted))
    wrong = {name: value for name, value in adapted.items() if name != gone} | {"surplus": torch.zeros(1)}
    bent = [name for name in wrong if name != "surplus"][-1]
    wrong[bent] = torch.zeros(*wrong[bent].shape, 2)
    with pytest.raises(CheckpointError) as caught:
        folder.load_strictly(copy.deepcopy(host), wrong, frozen)
    for name in (f"{gone} is missing", "surplus is not expected", f"{bent} has shape"):
        assert name in str(caught.value)
