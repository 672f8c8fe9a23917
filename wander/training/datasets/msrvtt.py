"""MSR-VTT's captions, with stand-ins for the features that are not at hand: what is measured here is a proxy.

A video is asked for by one caption. The experts' features are made of its other captions (`_stand_ins`); captions that
say the same as the query in the same words are left out. In the 1k-A test a video has 20 captions and its query is
given; of a video to train on there are four, of which the first asks for it in `load`, and each in turn in a recipe.
"""

from __future__ import annotations

import csv
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from wander.errors import UsageError
from wander.signature import TensorSpec
from wander.tasks.base import Item
from wander.training.datasets._stand_ins import StandIns
from wander.training.datasets.base import Dataset, Split

TEST, TEST_CAPTIONS, CAPTIONS = "msrvtt_1ka_test.csv", "msrvtt_captions_1ka_test.csv", "msrvtt_captions_trainval.csv"
SPLITS = {"train": "train", "valid": "validate"}
"""Names here, and in the file."""
MISSING = 0.2
"""How likely a video lacks an expert."""
FEATURES = "features_"


@dataclass(frozen=True)
class Video:
    """A video: what asks for it, and what else was said of it."""

    id: str
    query: str
    others: tuple[str, ...]

    def rng(self, seed: int = 0) -> np.random.Generator:
        """Draws that are the same whenever this video is looked at."""
        return np.random.default_rng([seed, zlib.crc32(self.id.encode())])


class Msrvtt(Dataset):
    """Items are first the videos, `{"video": ..}`, then their queries, `{"text": caption}`, of equal labels."""

    layout: ClassVar[str] = f"{TEST}, {TEST_CAPTIONS}, {CAPTIONS}"
    source: ClassVar[str] = (
        "proxy: captions of MSR-VTT (Xu et al. 2016; 1k-A split of JSFusion) as released with "
        "WingsBrokenAngel/MSR-VTT-DataCleaning (MIT licence file), other captions of a video standing in for the "
        "features of its experts"
    )

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        return all((folder / name).is_file() for name in (TEST, TEST_CAPTIONS, CAPTIONS))

    def load(self, folder: Path, split: str, inputs: tuple[TensorSpec, ...]) -> Split:
        found = videos(folder, split)
        features = {spec.name.removeprefix(FEATURES): spec for spec in inputs if spec.name.startswith(FEATURES)}
        sizes = {name: spec.item_dims for name, spec in features.items()}
        widths = {name: dims[1] for name, dims in sizes.items() if len(dims) == 2 and isinstance(dims[1], int)}
        if not widths:
            raise UsageError(
                f"this data set has features of experts, which a model with {_names(inputs)} does not take"
            )
        most = min(int(dims[0]) for dims in sizes.values())
        made = StandIns(training_captions(folder), MISSING, most)
        watched: list[Item] = [{"video": made.video(one.others, widths, one.rng())} for one in found]
        asked: list[Item] = [{"text": one.query} for one in found]
        ids = [one.id for one in found]
        return Split(
            items=[*watched, *asked],
            labels=np.tile(np.arange(len(found)), 2),
            ids=[*ids, *(f"{name}#query" for name in ids)],
            groups=[*ids, *ids],
        )


def videos(folder: Path, split: str, queries: Sequence[int] = (0,)) -> list[Video]:
    """The videos of a split, once for each of the `queries`; the test has one query a video.

    Raises UsageError for a split that is not there, or files that are not whole.
    """
    try:
        if split == "test":
            said = _grouped(_read(folder / TEST_CAPTIONS))
            return [_video(row["video_id"], row["caption"], said[row["video_id"]]) for row in _read(folder / TEST)]
        if split not in SPLITS:
            raise UsageError(f"{folder} has no split {split!r}; it has train, valid and test")
        said = _grouped(row for row in _read(folder / CAPTIONS) if row["split"] == SPLITS[split])
        asking = [(name, own, own[q]) for name, own in said.items() for q in queries if q < len(own)]
        found = [_video(name, query, own) for name, own, query in asking]
        return [video for video in found if video.others]  # a few have four times the same caption
    except (KeyError, OSError) as error:
        raise UsageError(f"{folder} is no whole data set of captions: {error}") from error


def training_captions(folder: Path) -> list[str]:
    """All captions of the videos to train on."""
    return [row["caption"] for row in _read(folder / CAPTIONS) if row["split"] == SPLITS["train"]]


def _video(name: str, query: str, captions: Sequence[str]) -> Video:
    same = " ".join(query.lower().split())
    return Video(name, query, tuple(one for one in captions if " ".join(one.lower().split()) != same))


def _grouped(rows: Iterable[dict[str, str]]) -> dict[str, list[str]]:
    """Captions by video."""
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["video_id"], []).append(row["caption"])
    return found


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _names(inputs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(spec.name for spec in inputs) or "no inputs"


plugin = Msrvtt
