"""Parts of the image-text recipe against plain computations: descriptors, sentences, patchworks, the rate."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from wander.extractors._statistics import cielab, colours, gradients
from wander.training.recipes._alignment import regression
from wander.training.recipes._annealing import Annealing, anneal
from wander.training.recipes._captioned_corpus import patchwork
from wander.training.recipes._captions import Sentences
from wander.training.recipes._descriptors import Descriptors


@pytest.fixture
def pictures() -> np.ndarray:
    """Smooth, so that they differ in colour and in the direction of their edges."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (24, 4, 4, 3)).astype(np.uint8)
    return small.repeat(8, axis=1).repeat(8, axis=2)


def test_white_gray_and_red_in_cielab() -> None:
    values = cielab(np.array([[[[255, 255, 255], [119, 119, 119], [255, 0, 0]]]], np.uint8))[0, 0]
    np.testing.assert_allclose(values, [[100, 0, 0], [50.0, 0, 0], [53.2, 80.1, 67.2]], atol=0.2)


def test_colours_are_histograms(pictures: np.ndarray) -> None:
    found = colours(pictures) ** 2
    assert found.shape == (24, 21 * 180)
    np.testing.assert_allclose(found[:, :180].sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(found[:, 180 : 5 * 180].sum(1), 4 / 2**2, rtol=1e-5)


def test_every_grey_is_counted_in_one_bin_of_its_lightness(monkeypatch: pytest.MonkeyPatch) -> None:
    """However a processor rounds."""
    greys = np.arange(256, dtype=np.uint8).repeat(4)[None, :, None].repeat(32, 0).reshape(32, 32, 32)
    pictures = np.stack([greys] * 3, -1)
    exact = cielab(pictures)
    found = colours(pictures, (1,))
    assert ((found > 0).sum(1) <= 5).all()  # as many bins as lightness has
    for noise in (-1e-4, 1e-4):
        monkeypatch.setattr("wander.extractors._statistics.cielab", lambda _, noise=noise: exact + np.float32(noise))
        np.testing.assert_array_equal(colours(pictures, (1,))[:, :], found)


def test_gradients_know_upright_from_level_and_not_light_from_dark() -> None:
    ramp = np.tile(np.linspace(40, 200, 32).astype(np.uint8), (32, 1))
    level = np.stack([np.stack([ramp] * 3, -1), np.stack([ramp.T] * 3, -1), np.stack([ramp[:, ::-1]] * 3, -1)])
    found = gradients(level)
    assert found[0] @ found[1] < 0.5 * (found[0] @ found[0])
    np.testing.assert_allclose(found[0] @ found[2], found[0] @ found[0], rtol=1e-2)


def test_vectors_are_the_kernel_pca_of_what_they_were_fitted_on(pictures: np.ndarray) -> None:
    describe = Descriptors(pictures, 6, 5, np.random.default_rng(0))
    found = describe(pictures)
    assert found.shape == (24, 5)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-4)
    spread = found.T @ found
    np.testing.assert_allclose(spread, np.diag(np.diag(spread)), atol=1e-3 * spread.max())
    assert (np.diff(np.diag(spread)) <= 1e-5).all()
    np.testing.assert_allclose(describe(pictures[3:5]), found[3:5], atol=1e-4)


def test_a_patchwork_holds_two_pictures_and_is_the_same_at_any_size() -> None:
    colours_of = np.arange(1, 9, dtype=np.uint8)
    small = np.broadcast_to(colours_of[:, None, None, None], (8, 16, 16, 3))
    large = np.broadcast_to(colours_of[:, None, None, None], (8, 32, 32, 3))
    found = patchwork(small, 5), patchwork(large, 5)
    for one, own in zip(found[0], colours_of, strict=True):
        assert own in one
        assert len(np.unique(one)) <= 2
    assert sum(len(np.unique(one)) == 2 for one in found[0]) >= 4
    difference = found[0] != found[1][:, ::2, ::2]
    assert difference.mean() < 0.08
    assert not np.array_equal(patchwork(small, 5), patchwork(small, 6))


def test_sentences_of_the_same_things_are_near() -> None:
    """Words 1 to 3 go together, and so do 4 to 6; 0 is in every caption and says nothing."""
    rng = np.random.default_rng(0)
    captions, things = [], []
    for thing in range(40):
        words = [1, 2, 3] if thing % 2 else [4, 5, 6]
        for _ in range(2):
            captions.append([0, *rng.choice(words, 2, replace=False).tolist()])
            things.append(thing)
    sentences = Sentences(captions, np.array(things), [], 7, 3)
    assert sentences.rarity[0] < 0.02
    found = sentences([[1, 2], [3], [4, 5], [6, 0]])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    assert found[0] @ found[1] > 0.8
    assert found[2] @ found[3] > 0.8
    assert found[0] @ found[2] < 0


def test_regression_is_the_least_damped_error() -> None:
    rng = np.random.default_rng(0)
    inputs, outputs = (torch.from_numpy(rng.normal(size=(30, n)).astype(np.float32)) for n in (4, 3))
    weights = regression(inputs, outputs, 0.5).double().requires_grad_()
    damping = 0.5 * (inputs.double() ** 2).sum(0).mean()
    error = ((inputs.double() @ weights - outputs.double()) ** 2).sum() + damping * (weights**2).sum()
    error.backward()
    assert weights.grad is not None
    assert weights.grad.abs().max() < 1e-4


def test_the_rate_rises_and_falls_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def watched(self: torch.optim.AdamW, *arguments: object) -> object:
        rates.append(self.param_groups[0]["lr"])
        return step(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    weight = nn.Parameter(torch.tensor([3.0]))
    epochs: list[int] = []
    schedule = Annealing(epochs=40, learning_rate=0.2, weight_decay=0)
    anneal([weight], lambda: [torch.arange(1)] * 2, lambda rows: (weight**2).sum(), schedule, epochs.append)
    assert epochs == list(range(1, 41))
    assert len(rates) == 80
    assert rates[0] == pytest.approx(0.2 / 4)
    assert max(rates) <= 0.2
    assert rates[-1] < 0.2 * (1 + math.cos(math.pi * 79 / 80)) / 2 + 1e-9
    assert abs(weight.item()) < 0.1
