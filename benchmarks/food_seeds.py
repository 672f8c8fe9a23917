"""Food: both modalities against either alone, and the adapter against a head alone, over several seeds.

    python benchmarks/food_seeds.py --data ../shared/data/food

Over one fitted and frozen host a seed the head alone and the adapter with a head are trained by the same schedule; the
epoch is chosen on the validation split. The test split is opened here, once everything is trained, and nowhere else.
An item without its picture, or without its text, is what the task makes of one.

Prints a table in Markdown, and then the same as one JSON object.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from wander.backbones.bert_vit import BertViT
from wander.checkpoints.folder import Description
from wander.tasks import tasks
from wander.training.datasets import arrays, open_dataset
from wander.training.evaluation import draft_manifest
from wander.training.loop import Examples, predict
from wander.training.recipes._food_corpus import FoodCorpus
from wander.training.recipes.food import FoodSettings, train_adapted, train_host

ADAPTER, IMAGE, TEXT = "adapter and head", "adapter and head, picture alone", "adapter and head, text alone"
ZEROED, HEAD, HOST = "adapter and head, adapter set to zero", "head alone", "host, its own head"

Row = dict[str, float]


def measure(data: Path, seed: int) -> dict[str, Row]:
    """Accuracy of every reading on the validation and the test split."""
    settings = FoodSettings()
    corpus = FoodCorpus(data, settings.image_size, settings.text_length, settings.least)
    quiet = lambda stage, epoch, epochs, loss: None  # noqa: E731
    host, _ = train_host(corpus, settings, seed, quiet)
    head, _ = train_adapted(corpus, settings, host, seed, quiet, head_only=True)
    adapted, report = train_adapted(corpus, settings, host, seed, quiet)
    print(f"seed {seed}: kept epoch {report['epoch']}, validation cross-entropy {report['loss']}", file=sys.stderr)
    zeroed = copy.deepcopy(adapted)
    assert zeroed.adapter_module is not None
    zeroed.adapter_module.zero_()
    readings = ((ADAPTER, adapted, ""), (IMAGE, adapted, "text"), (TEXT, adapted, "image"))
    others = ((ZEROED, zeroed, ""), (HEAD, head, ""), (HOST, host, ""))
    return {
        name: {split: accuracy(model, corpus, data, split, without) for split in ("valid", "test")}
        for name, model, without in readings + others
    }


def accuracy(host: BertViT, corpus: FoodCorpus, data: Path, split: str, without: str) -> float:
    about = Description(task="food", labels=corpus.labels, preprocessing=corpus.preprocessing())
    part = open_dataset(data).load(data, split, ())
    with tempfile.TemporaryDirectory() as scratch:
        for name, content in corpus.assets.items():
            (Path(scratch) / name).write_bytes(content)
        task = tasks.get("food")(draft_manifest(about, host), Path(scratch))
        items = [{name: value for name, value in item.items() if name != without} for item in part.items]
        inputs = arrays(type(part)(items, part.labels, part.ids, part.groups), task, "model")
    tensors = tuple(torch.from_numpy(value) for value in inputs.values())
    outputs = predict(host, Examples(tensors, torch.from_numpy(part.labels)), 50).numpy()
    return float(np.mean(outputs.argmax(1) == part.labels))


def mean_and_deviation(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def markdown(found: list[dict[str, Row]], seeds: list[int]) -> str:
    """Means with the deviation over the seeds, and every seed."""
    lines = [f"| accuracy, mean of {len(seeds)} seeds | valid | test |", "|---|---|---|"]
    for name in found[0]:
        cells = [mean_and_deviation([seed[name][split] for seed in found]) for split in ("valid", "test")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| seed | reading | valid | test |", "|---|---|---|---|"]
    for number, seed in zip(seeds, found, strict=True):
        for name, row in seed.items():
            lines.append(f"| {number} | {name} | {row['valid']:.3f} | {row['test']:.3f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    seeds = list(range(arguments.seeds))
    found, started = [], time.monotonic()
    for seed in seeds:
        found.append(measure(arguments.data, seed))
        print(f"seed {seed}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    print(markdown(found, seeds))
    command = f"python benchmarks/food_seeds.py --data {arguments.data} --seeds {len(seeds)}"
    print()
    print(json.dumps({"command": command, "seeds": dict(zip(seeds, found, strict=True))}))


if __name__ == "__main__":
    main()
