"""CMU-MOSI: the adapter against a head alone, over the same frozen hosts, over several seeds.

    python benchmarks/mosi_seeds.py --data ../shared/data/mosi

A seed decides which half of the training videos the host learns on, and every initialisation and order of batches. Over
each frozen host three readings are trained by the same schedule: a head alone; the adapter with the released
initialisation, from which it cannot move (so it only hands on the first text token); and the adapter. Epochs are chosen
on the validation split; the test split is opened here, once everything is trained, and nowhere else.

Prints a table in Markdown, and then the same as one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

from wander.training.evaluation import evaluate_host
from wander.training.recipes._corpus import Corpus
from wander.training.recipes.sentiment import SentimentSettings, describe, train_adapted, train_host

METRICS = {"acc2": "ACC-2", "f1": "F1", "acc7": "ACC-7", "mae": "MAE", "corr": "Corr"}
HOST, HEAD, DEAD, ADAPTER = "host, its own head", "head alone", "adapter, zero start", "adapter"

Row = dict[str, float]


def measure(data: Path, seed: int, split: str) -> dict[str, Row]:
    """Metrics of every reading over one host."""
    settings = SentimentSettings()
    corpus = Corpus(data, settings.length)
    quiet = lambda stage, epoch, epochs, loss: None  # noqa: E731
    host, _ = train_host(corpus, settings, seed, quiet)
    dead = settings.model_copy(update={"start_scale": 0.0})
    readings = {
        HOST: host,
        HEAD: train_adapted(corpus, settings, host, seed, quiet, head_only=True)[0],
        DEAD: train_adapted(corpus, dead, host, seed, quiet)[0],
        ADAPTER: train_adapted(corpus, settings, host, seed, quiet)[0],
    }
    about = describe(corpus)
    return {
        name: {key: value or 0.0 for key, value in evaluate_host(model, about, Path(), data, split).metrics.items()}
        for name, model in readings.items()
    }


def mean_and_deviation(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def markdown(found: list[dict[str, Row]], seeds: list[int]) -> str:
    """Means with the deviation over the seeds, the paired difference, and every seed."""
    lines = [f"| mean of {len(seeds)} seeds | {' | '.join(METRICS.values())} |", "|---|" + "---|" * len(METRICS)]
    for name in found[0]:
        cells = [mean_and_deviation([seed[name][key] for seed in found]) for key in METRICS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for other in (HEAD, DEAD):
        cells = [mean_and_deviation([seed[ADAPTER][key] - seed[other][key] for seed in found]) for key in METRICS]
        lines.append(f"| adapter - {other}, paired | {' | '.join(cells)} |")
    lines += ["", f"| seed | reading | {' | '.join(METRICS.values())} |", "|---|---|" + "---|" * len(METRICS)]
    for number, seed in zip(seeds, found, strict=True):
        for name, row in seed.items():
            lines.append(f"| {number} | {name} | {' | '.join(f'{row[key]:.3f}' for key in METRICS)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--split", default="test", choices=["valid", "test"])
    arguments = parser.parse_args()
    seeds = list(range(arguments.seeds))
    found, started = [], time.monotonic()
    for seed in seeds:
        found.append(measure(arguments.data, seed, arguments.split))
        print(f"seed {seed}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    print(markdown(found, seeds))
    command = f"python benchmarks/mosi_seeds.py --data {arguments.data} --seeds {len(seeds)} --split {arguments.split}"
    print()
    print(json.dumps({"command": command, "split": arguments.split, "seeds": dict(zip(seeds, found, strict=True))}))


if __name__ == "__main__":
    main()
