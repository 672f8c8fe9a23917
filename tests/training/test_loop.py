"""The loop: determinism, selection on the validation data, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wander.training.loop import Examples, Schedule, fit, predict, reproducible, train_mode


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5))
        self.head = nn.Sequential(nn.Linear(4, 1), nn.Dropout(0.1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def examples(rows: int, seed: int) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 3, generator=generator)
    return Examples((x,), x.sum(1, keepdim=True))


def trained(seed: int, **schedule: float) -> tuple[Model, list[float]]:
    losses: list[float] = []
    with reproducible(seed):
        model = Model()
        fit(
            model,
            examples(50, 1),
            examples(20, 2),
            F.l1_loss,
            Schedule.model_validate({"epochs": 6, "batch_size": 8, "learning_rate": 0.02} | schedule),
            lambda epoch, loss: losses.append(loss),
        )
    return model, losses


def test_equal_seeds_give_equal_weights_and_others_do_not() -> None:
    (first, losses), (second, again), (third, _) = trained(0), trained(0), trained(1)
    assert losses == again
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert not torch.equal(first.head[0].weight, third.head[0].weight)


def test_the_weights_of_the_best_epoch_are_kept() -> None:
    model, losses = trained(0, learning_rate=0.5, patience=99)
    assert losses.index(min(losses)) < len(losses) - 1  # a rate so high that the last epoch is not the best
    valid = examples(20, 2)
    assert float(F.l1_loss(predict(model, valid), valid.targets)) == pytest.approx(min(losses), rel=1e-6)
    assert not model.training


def test_it_stops_once_patience_is_spent() -> None:
    with reproducible(0):
        model = Model()
        schedule = Schedule(epochs=50, patience=2, learning_rate=1e-12)
        model.requires_grad_(False)
        model.head[0].bias.requires_grad_(True)
        found = fit(model, examples(30, 1), examples(10, 2), lambda a, b: F.l1_loss(a, b) * 0 + a.sum() * 0, schedule)
    assert (found.epoch, found.epochs) == (1, 3)


def test_frozen_parts_are_bit_equal_afterwards_and_run_without_dropout() -> None:
    with reproducible(0):
        model = Model()
        model.body.requires_grad_(False)
        before = {name: value.clone() for name, value in model.body.state_dict().items()}
        train_mode(model)
        assert not model.body[1].training
        assert model.head[1].training
        fit(model, examples(30, 1), examples(10, 2), F.l1_loss, Schedule(epochs=2))
    for name, value in before.items():
        assert torch.equal(value, model.body.state_dict()[name])


def test_random_state_and_threads_are_given_back() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    with reproducible(5):
        assert torch.get_num_threads() == 1
        torch.rand(3)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_prediction_in_pieces_is_prediction_at_once() -> None:
    model, data = Model(), examples(50, 3)
    torch.testing.assert_close(predict(model, data, batch_size=7), predict(model, data, batch_size=50))
