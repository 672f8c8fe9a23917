"""What padding costs: captions padded to the model's maximum, to the longest of their batch, and not at all.

    python -m benchmarks.text_padding DATA [--models flickr8k-image-text,beit3_base] [--quick] [--out FILE]

Real captions in random order are embedded in three ways that take turns in one run, on ONNX Runtime with one thread:
all padded to the model's maximum; in batches as they come, padded to the longest of each; and in batches of one length,
unpadded, as the server forms them. `beit3_base` has random weights, the authors' maximum and the tokenizer of the
shipped model. Batches are made before the clock starts, which counts the processor time of the one thread: other work
on the machine disturbs it far less.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import typer
from numpy.typing import NDArray
from pydantic import TypeAdapter
from rich.progress import Progress

from benchmarks._models import SEED, ZOO, beit3_base
from benchmarks._timing import Ratio, Spread, alternate, ratio, short
from benchmarks.results import circumstances, publish, table
from export.fold import fold
from export.trace import trace
from wander.backbones import Host
from wander.checkpoints import folder
from wander.checkpoints.formats.mwa_beit3 import MAX_TOKENS
from wander.console import progress
from wander.engines import DEFAULT_ENGINE, EngineOptions, Session, engines
from wander.signature import Arrays
from wander.tasks._texts import TextPreprocessing
from wander.training.datasets.flickr8k import Flickr8k
from wander.training.datasets.msrvtt import videos

ROWS = 32
QUICK_TEXTS, QUICK_ROUNDS = 40, 2
VARIANTS = ("maximum", "longest of the batch", "one length")
MAXIMUM, LONGEST, UNPADDED = VARIANTS
Batch = tuple[NDArray[np.int64], Arrays]
"""Numbers of texts, and their tensors."""


def flickr8k(data: Path) -> list[str]:
    return [item["text"] for item in Flickr8k().load(data / "flickr8k", "test", ()).items if "text" in item]


def msrvtt(data: Path) -> list[str]:
    return [video.query for video in videos(data / "msrvtt", "test")]


@dataclass(frozen=True)
class Model:
    """Attributes:

    shipped: whose tokenizer reads the captions, and whose weights are used unless there is `full_size`.
    captions: all of a data set's test split, in a folder of data sets.
    full_size: makes the host with random weights, of `max_length` tokens.
    """

    shipped: str
    captions: Callable[[Path], list[str]]
    full_size: Callable[[], Host] | None = None
    max_length: int | None = None


SHIPPED = {
    "flickr8k-image-text": Model("flickr8k-image-text", flickr8k),
    "clips-text-video": Model("clips-text-video", msrvtt),
}
MODELS = {**SHIPPED, "beit3_base": Model("flickr8k-image-text", flickr8k, beit3_base, MAX_TOKENS)}


@dataclass(frozen=True)
class Pool:
    """Texts as tensors (N, maximum), padded, and how many tokens each of them has."""

    arrays: Arrays
    lengths: NDArray[np.int64]
    maximum: int

    @classmethod
    def of(cls, texts: Sequence[str], preprocessing: dict[str, Any], beside: Path, max_length: int | None) -> Self:
        """Texts as the task reads them, whose padding alone differs."""
        declared: TextPreprocessing = TypeAdapter(TextPreprocessing).validate_python(preprocessing)
        maximum = max_length or declared.max_length
        cut, padded = (
            declared.model_copy(update={"max_length": maximum, "pad": pad}).load(beside) for pad in (False, True)
        )
        lengths = [len(next(iter(cut(text).values()))) for text in texts]
        rows = [padded(text) for text in texts]
        return cls({name: np.stack([row[name] for row in rows]) for name in rows[0]}, np.array(lengths), maximum)

    def batches(self, variant: str) -> list[Batch]:
        """All texts, in the order in which they come or by length. What is cut off them is padding."""
        places = np.arange(len(self.lengths))
        groups = [places]
        if variant == UNPADDED:
            groups = [places[self.lengths == length] for length in np.unique(self.lengths)]
        found: list[Batch] = []
        for numbers in (group[at : at + ROWS] for group in groups for at in range(0, len(group), ROWS)):
            width = self.maximum if variant == MAXIMUM else self.lengths[numbers].max()
            found.append((numbers, {name: value[numbers, :width] for name, value in self.arrays.items()}))
        return found


def embed(session: Session, batches: Sequence[Batch]) -> NDArray[Any]:
    """The vectors of all texts, in the texts' order."""
    vectors = np.concatenate([session.run(arrays)["text_embedding"] for _, arrays in batches])
    return vectors[np.argsort(np.concatenate([numbers for numbers, _ in batches]))]


def measure(name: str, data: Path, texts: int, rounds: int, display: Progress) -> dict[str, Any]:
    """All that is found of one model."""
    model, beside = MODELS[name], ZOO / MODELS[name].shipped
    loaded = folder.load(beside / "adapter", beside / "backbone")
    captions = model.captions(data)
    drawn = [captions[i] for i in np.random.default_rng(SEED).permutation(len(captions))[:texts]]
    pool = Pool.of(drawn, loaded.about.preprocessing["text"], beside / "adapter", model.max_length)
    host = model.full_size() if model.full_size else loaded.host
    fold(host)
    signature = host.towers("logits")["text"].signature
    batches = {variant: pool.batches(variant) for variant in VARIANTS}
    with tempfile.TemporaryDirectory() as scratch:
        graph = Path(scratch) / "text.onnx"
        trace(host, "text", "logits", graph)
        with engines.get(DEFAULT_ENGINE).open(graph, signature, EngineOptions(threads=1)) as session:
            vectors = {variant: embed(session, own) for variant, own in batches.items()}
            calls = {variant: partial(embed, session, own) for variant, own in batches.items()}
            turns = display.track(range(rounds), description=name)
            seconds = alternate(calls, turns, clock=time.thread_time)
    return {
        "model": name,
        "texts": len(drawn),
        "maximum": pool.maximum,
        "lengths": {
            "min": int(pool.lengths.min()),
            "median": float(np.median(pool.lengths)),
            "mean": float(pool.lengths.mean()),
            "max": int(pool.lengths.max()),
            "distinct": len(np.unique(pool.lengths)),
            "at_maximum": float((pool.lengths == pool.maximum).mean()),
        },
        "batches": {variant: len(own) for variant, own in batches.items()},
        "ms_a_text": {v: asdict(Spread.of([1000 * s / len(drawn) for s in own])) for v, own in seconds.items()},
        "to_maximum": {v: asdict(ratio(seconds[v], seconds[MAXIMUM])) for v in VARIANTS[1:]},
        "max_abs_difference": {v: float(np.abs(vectors[v] - vectors[MAXIMUM]).max()) for v in VARIANTS[1:]},
    }


def body(rows: Sequence[dict[str, Any]], rounds: int) -> list[str]:
    """The report's paragraphs and tables; the first table is in the documentation."""
    times = [
        [
            row["model"],
            row["maximum"],
            *(short(row["ms_a_text"][variant]["median"]) for variant in VARIANTS),
            *(Ratio(**row["to_maximum"][variant]) for variant in VARIANTS[1:]),
        ]
        for row in rows
    ]
    texts = [
        [
            row["model"],
            row["texts"],
            *(f"{row['lengths'][what]:.3g}" for what in ("min", "median", "mean", "max", "distinct")),
            f"{row['lengths']['at_maximum']:.0%}",
            *row["batches"].values(),
            *(f"{row['max_abs_difference'][variant]:.1e}" for variant in VARIANTS[1:]),
        ]
        for row in rows
    ]
    return [
        f"Processor time of one thread, {rounds} turns, batches of up to {ROWS}. Ratios to texts padded to the maximum "
        "are taken within every turn: median (quartiles; and the ratio of the fastest turns). Milliseconds a text are "
        "medians, for context only.",
        table(
            ["model", "tokens at most", *(f"{v}, ms" for v in VARIANTS), *(f"{v} / {MAXIMUM}" for v in VARIANTS[1:])],
            times,
        ),
        "Tokens of the texts, with those that mark start and end, by the shipped tokenizer, whose vocabulary is small; "
        "number of batches; and the largest absolute difference of an embedding from that padded to the maximum, "
        "float32.",
        table(
            [
                *("model", "texts", "shortest", "median", "mean", "longest", "distinct lengths", "at the maximum"),
                *(f"batches, {variant}" for variant in VARIANTS),
                *(f"difference, {variant}" for variant in VARIANTS[1:]),
            ],
            texts,
        ),
    ]


def main(
    data: Annotated[Path, typer.Argument(help="Folder of the data sets.", exists=True, file_okay=False)],
    models: Annotated[str, typer.Option(help=f"Of {', '.join(MODELS)}; separated by commas.")] = ",".join(SHIPPED),
    texts: Annotated[int, typer.Option(min=1, help="Captions that are embedded.")] = 256,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of every variant.")] = 15,
    quick: Annotated[bool, typer.Option("--quick", help="Few captions, few turns: does it run?")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the report here, as .json and as .md.")] = None,
) -> None:
    """Time a text by how texts are padded."""
    about = circumstances("benchmarks.text_padding", ("torch", "onnxruntime", "numpy"))
    if quick:
        texts, rounds = QUICK_TEXTS, QUICK_ROUNDS
    with progress() as display:
        rows = [measure(name, data, texts, rounds, display) for name in models.split(",")]
    publish("Padding of texts", about, body(rows, rounds), {"rounds": rounds, "rows": rows}, out)


if __name__ == "__main__":
    typer.run(main)
