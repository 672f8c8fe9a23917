"""The training loop: batches, clipped AdamW steps, selection on validation data. Knows no task and no file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]


class Schedule(BaseModel):
    """How long and how fast.

    Defaults are those of the released CMU-MOSI run (batch, optimiser, rate, clipping, factor of the plateau); it does
    not state patience and epochs.

    Attributes:
        epochs: at most so many passes.
        patience: stops after so many passes without a better validation loss.
        plateau_patience, plateau_factor: after so many of them the rate is multiplied by the factor.
        clip: largest norm of the gradient.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=60, ge=1)
    batch_size: int = Field(default=24, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    clip: float = Field(default=0.8, gt=0)
    patience: int = Field(default=8, ge=1)
    plateau_patience: int = Field(default=3, ge=0)
    plateau_factor: float = Field(default=0.1, gt=0, lt=1)


@dataclass(frozen=True)
class Examples:
    """Inputs, each (N, ..), in the order in which the model takes them, and targets (N, ..) of the model's output."""

    inputs: tuple[Tensor, ...]
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def rows(self, rows: Tensor) -> Examples:
        """The given rows (int64), in that order."""
        return Examples(tuple(value[rows] for value in self.inputs), self.targets[rows])


@dataclass(frozen=True)
class Fit:
    """What came of it: the epoch that was kept (from 1), the epochs run, and the kept validation loss."""

    epoch: int
    epochs: int
    loss: float


@contextmanager
def reproducible(*entropy: int) -> Iterator[None]:
    """Seeds torch and computes on one thread, so that equal arguments give equal weights; restores both afterwards."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def fit(
    model: nn.Module,
    train: Examples,
    valid: Examples,
    loss: Loss,
    schedule: Schedule,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
) -> Fit:
    """Trains what requires gradients, and leaves the model in eval mode with the weights of the best epoch.

    The best epoch is the one with the lowest loss on `valid`. Parts without a trained parameter run as they will be
    served, without dropout.

    Args:
        on_epoch: is told every epoch (from 1) and its validation loss.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=schedule.plateau_factor, patience=schedule.plateau_patience
    )
    best, kept = Fit(0, 0, float("inf")), [parameter.detach().clone() for parameter in trained]
    epoch = 0
    while epoch < schedule.epochs and epoch - best.epoch < schedule.patience:
        epoch += 1
        train_mode(model)
        for rows in torch.randperm(len(train)).split(schedule.batch_size):
            batch = train.rows(rows)
            optimizer.zero_grad()
            loss(model(*batch.inputs), batch.targets).backward()
            nn.utils.clip_grad_norm_(trained, schedule.clip)
            optimizer.step()
        measured = float(loss(predict(model, valid), valid.targets))
        plateau.step(measured)
        on_epoch(epoch, measured)
        if measured < best.loss:
            best, kept = Fit(epoch, epoch, measured), [parameter.detach().clone() for parameter in trained]
    with torch.no_grad():
        for parameter, value in zip(trained, kept, strict=True):
            parameter.copy_(value)
    model.eval()
    return Fit(best.epoch, epoch, best.loss)


def train_mode(model: nn.Module) -> None:
    """Train mode, but eval mode for every direct part of the model that has no trained parameter."""
    model.train()
    for part in model.children():
        if not any(parameter.requires_grad for parameter in part.parameters()):
            part.eval()


@torch.no_grad()
def predict(model: nn.Module, examples: Examples, batch_size: int = 256) -> Tensor:
    """Outputs (N, ..) in eval mode, which is left on."""
    model.eval()
    rows = torch.arange(len(examples)).split(batch_size)
    return torch.cat([model(*examples.rows(chunk).inputs) for chunk in rows])
