"""A data set of the CMU-MOSI layout, small and random, but with something to learn in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wander.training.recipes.sentiment import SentimentSettings

WIDTHS = {"text": 6, "audio": 3, "video": 4}

MakeSplit = Callable[..., Path]


@pytest.fixture(scope="session")
def mosi_data() -> Path:
    """The real data set, where it is."""
    folder = Path(__file__).parents[2].parent / "shared" / "data" / "mosi"
    if not folder.is_dir():
        pytest.skip(f"the shared data set is not here ({folder.name})")
    return folder


def write_split(folder: Path, split: str, videos: list[str], seed: int, utterances: int = 5) -> Path:
    """One `mosi_{split}.npz` with segments out of order; the label is a function of the first text feature."""
    rng = np.random.default_rng(seed)
    rows = [(video, segment) for video in videos for segment in rng.permutation(utterances) + 1]
    features = {name: rng.normal(2.0, 3.0, (len(rows), width)).astype(np.float32) for name, width in WIDTHS.items()}
    path = folder / f"mosi_{split}.npz"
    np.savez(
        path,
        **features,
        label=np.clip(features["text"][:, 0] - 2.0, -3, 3).astype(np.float32),
        id=np.array([f"{video}_{segment}" for video, segment in rows]),
        video_id=np.array([video for video, _ in rows]),
        segment=np.array([segment for _, segment in rows], np.int16),
    )
    return path


@pytest.fixture
def tiny_data(tmp_path: Path) -> Path:
    """Training and validation split, and no test split."""
    folder = tmp_path / "data"
    folder.mkdir()
    write_split(folder, "train", [f"t{i}" for i in range(8)], seed=1)
    write_split(folder, "valid", ["v0", "v1"], seed=2)
    return folder


TINY = {
    "length": 4,
    "embed_dim": 8,
    "num_heads": 2,
    "encoder_layers": 1,
    "down_dim": 3,
    "rank_h": 2,
    "rank_t": 2,
    "host": {"epochs": 2},
    "adapter": {"epochs": 3},
}


@pytest.fixture
def tiny_settings() -> SentimentSettings:
    return SentimentSettings.model_validate(TINY)
