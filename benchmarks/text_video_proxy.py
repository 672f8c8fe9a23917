"""Wander over a frozen MMT on captions that stand in for features: a proxy, no figure of real videos.

    python -m benchmarks.text_video_proxy --data ../shared/data/msrvtt --out benchmarks/results/text_video_proxy

The 820 test videos of the 1k-A split, each asked for by one caption; its other captions stand in for what the experts
saw. Over one host, trained on part of the training videos and frozen, three readings: the host as it is, the experts'
weights trained anew (the head alone), and Wander with these. Epochs are chosen on the validation split; the test split
is opened here, once everything is trained. TF-IDF compares the same queries with all the other captions of each video,
which is more than the experts are told: they lack some words to hashing, and some videos lack experts.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from math import log
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.results import circumstances, publish, table
from wander.backbones.mmt import MMT
from wander.checkpoints.folder import Description
from wander.tasks._retrieval import both_ways
from wander.training.datasets._stand_ins import words
from wander.training.datasets.msrvtt import videos
from wander.training.evaluation import evaluate_host
from wander.training.recipes._stand_in_corpus import TOKENIZER, Captions
from wander.training.recipes.text_video import TextVideoSettings, describe, train_adapted, train_host

MEASURES = {"r1": "R@1", "r5": "R@5", "r10": "R@10", "mdr": "MdR", "mnr": "MnR"}
WAYS = {"text_to_video": "text to video", "video_to_text": "video to text"}
Row = Mapping[str, float | None]


def tf_idf(folder: Path, split: str) -> Row:
    """Cosines of a query with all other captions of each video; words weigh less the more videos have them."""
    asked = videos(folder, split)
    queries = [Counter(words(video.query)) for video in asked]
    said = [Counter(word for caption in video.others for word in words(caption)) for video in asked]
    frequency = Counter(word for document in said for word in document)
    known = {word: place for place, word in enumerate(frequency)}
    idf = {word: log(len(said) / count) for word, count in frequency.items()}

    def vectors(documents: Iterable[Counter[str]]) -> NDArray[np.float64]:
        rows = np.zeros((len(asked), len(known)))
        for row, document in enumerate(documents):
            for word, count in document.items():
                if word in known:
                    rows[row, known[word]] = (1 + log(count)) * idf[word]
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)

    owners = np.arange(len(asked))
    return both_ways(("text", "video"), vectors(queries) @ vectors(said).T, (owners, owners))


def measured(host: MMT, about: Description, captions: Captions, folder: Path, split: str) -> Row:
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / TOKENIZER).write_bytes(captions.tokenizer)
        return evaluate_host(host, about, Path(scratch), folder, split).metrics


def lines(name: str, found: Row) -> list[list[str]]:
    """A row for each direction."""
    return [
        [
            f"{name}, {title}",
            *(f"{found[f'{way}.{measure}']:.{1 if measure[0] == 'm' else 3}f}" for measure in MEASURES),
        ]
        for way, title in WAYS.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", default="test", choices=["valid", "test"])
    parser.add_argument("--set", type=json.loads, default={}, help="Settings of the recipe, as JSON.")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    folder, seed, split = arguments.data, arguments.seed, arguments.split
    settings = TextVideoSettings.model_validate(arguments.set)
    captions = Captions(folder, settings.tokens, settings.most_words)

    def notify(stage: str, epoch: int, epochs: int, loss: float) -> None:
        print(f"{stage}, epoch {epoch} of {epochs}: validation loss {loss:.3f}", file=sys.stderr, flush=True)

    host, report = train_host(captions, settings, seed, notify)
    head, _ = train_adapted(captions, settings, host, seed, notify, head_only=True)
    adapted, _ = train_adapted(captions, settings, host, seed, notify)
    about = describe(captions)
    found = {"TF-IDF": tf_idf(folder, split)}
    for name, one in {"host": host, "head alone": head, "Wander and head": adapted}.items():
        found[name] = measured(one, about, captions, folder, split)
    module = adapted.adapter_module
    assert module is not None
    trained = sum(value.numel() for value in adapted.split_state()[0].values())
    body = [
        "A proxy: captions stand in for the features of the experts. Nothing here is a figure of real videos.",
        f"Wander d = {settings.down_dim}, read-out `{module.config.readout}`: {trained} trained values over a host of "
        f"{sum(value.numel() for value in adapted.split_state()[1].values())}; the host saw {report['videos']} videos.",
        table([split, *MEASURES.values()], [row for name, values in found.items() for row in lines(name, values)]),
    ]
    data = {"seed": seed, "settings": settings.model_dump(mode="json"), "host": report, "metrics": found}
    about_run = circumstances("benchmarks.text_video_proxy", ("torch", "numpy"))
    publish("Text-video retrieval, by proxy", about_run, body, data, arguments.out)


if __name__ == "__main__":
    main()
