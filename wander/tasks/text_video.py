"""Texts and videos that are compared expert by expert, as in text-video retrieval with MMT.

A video comes as features of its experts (`wander.tasks._experts`) or, for a model whose manifest says how these are
made of it (`wander.extractors`), as a file; a text as words or, ready made, as token ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wander.errors import BundleError, InputError
from wander.extractors import VideoLimits, Watching
from wander.manifest import Manifest, first_problem
from wander.signature import Arrays
from wander.tasks._experts import Experts
from wander.tasks._retrieval import both_ways
from wander.tasks._texts import BertText
from wander.tasks.base import Calls, Item, Operation, Task

TEXT_FIELDS = ("text", "token_ids")
FEATURES = "features_"
EXAMPLE_ROWS = 2


class TextVideoPreprocessing(BaseModel):
    """`preprocessing` of a manifest.

    Attributes:
        vocabulary: number of token ids that the model knows.
        max_tokens: most token ids of a text, with those that mark its start and end.
        text: how words become token ids; null for a model that takes ids only.
        keep_missing_modalities: whether an expert that a video lacks counts as if it had seen something. All published
            models count it.
        max_features: rows of an expert that an item may have.
        extractors: expert -> `{"kind": .., ..}`, what makes its features of a video file, see `wander.extractors`. An
            expert that is not named is missing in every file.
        video: what is accepted of a file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocabulary: int = Field(ge=1)
    max_tokens: int = Field(default=30, ge=1)
    text: BertText | None = None
    keep_missing_modalities: bool = True
    max_features: int = Field(default=10_000, ge=1)
    extractors: dict[str, dict[str, Any]] = Field(default_factory=dict)
    video: VideoLimits = VideoLimits()


class TextVideo(Task):
    """Two graphs.

    `text` takes `input_ids` and `attention_mask` (batch, tokens) and gives `text_embedding` (batch, M·E), the experts'
    vectors times their weights, and `text_weights` (batch, M). `video` takes `features_*` (batch, T, D) and `maximum_*`
    (batch, D) of the experts, `positions` and `mask` (batch, M, T), and gives `video_embedding` (batch, M·E) and
    `availability` (batch, M).
    """

    summary: ClassVar[str] = "How well a text and a video fit, by its experts"
    operations: ClassVar[Mapping[str, str]] = {"score": summary, "embed": "The vector of a text or of a video"}
    measured: ClassVar[str | None] = "embed"
    uploads: ClassVar[tuple[str, ...]] = ("video",)
    slow: ClassVar[tuple[str, ...]] = ("video",)

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        super().__init__(manifest, folder)
        try:
            self.declared = TextVideoPreprocessing.model_validate(manifest.preprocessing)
        except ValidationError as error:
            raise BundleError(f"preprocessing.{first_problem(error)}") from error
        self.experts = Experts(*_experts(manifest), self.declared.max_features)
        self.watching = self._watching(folder)
        self._tokenizer = self.declared.text.load(folder) if self.declared.text is not None else None
        if self._tokenizer is not None and self._tokenizer.size > self.declared.vocabulary:
            raise BundleError(f"the tokenizer has {self._tokenizer.size} tokens, the model {self.declared.vocabulary}")

    def _watching(self, folder: Path) -> Watching:
        declared, widths = self.declared.extractors, self.experts.widths
        if unknown := sorted(set(declared) - set(widths)):
            raise BundleError(f"preprocessing.extractors names {unknown[0]}, which is none of {', '.join(widths)}")
        try:
            watching = Watching(declared, folder, self.declared.video)
        except BundleError as error:
            raise BundleError(f"preprocessing.{error}") from error
        for name, extractor in watching.bound.items():
            if extractor.dimension != widths[name]:
                raise BundleError(
                    f"preprocessing.extractors.{name} makes {extractor.dimension} numbers a row, the graph takes "
                    f"{widths[name]}"
                )
        return watching

    @property
    def names(self) -> tuple[str, ...]:
        """The experts, in order."""
        return tuple(self.experts.widths)

    def operation(self, name: str) -> Operation:
        return Score(self) if name == "score" else Embed(self)

    def divisor(self, answer: Mapping[str, Any]) -> list[float]:
        """The weights of a text, or which experts a video has: where missing ones are left out, these share a score."""
        if self.declared.keep_missing_modalities:
            return []
        return [float(value) for value in answer["weights" if answer["modality"] == "text" else "available"].values()]

    def text(self, item: Item) -> dict[str, NDArray[Any]]:
        """The tensors of an item's text. Raises InputError that names the field."""
        given = [name for name in TEXT_FIELDS if item.get(name) is not None]
        if len(given) != 1:
            raise InputError("give a text, or its token_ids", "text")
        if given == ["token_ids"]:
            ids = self._ids(item["token_ids"])
            return {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        if self._tokenizer is None:
            raise InputError("this model has no tokenizer; send token_ids, or convert it with a tokenizer.json", "text")
        return dict(self._tokenizer(item["text"]))

    def video(self, value: object) -> dict[str, NDArray[Any]]:
        """The tensors of a video, given as a file or as features. Raises InputError that names the field."""
        if isinstance(value, str):
            raise InputError("video must be a file, or an object with experts", "video")
        if not isinstance(value, bytes):
            return self.experts(value)
        if not self.watching.bound:
            raise InputError(
                f"this model cannot watch a file: nothing here makes the features of its experts "
                f'({", ".join(self.names)}); send these, as {{"experts": {{name: {{"features": [[..]]}}}}}}',
                "video",
            )
        return self.experts({"experts": {name: one.item() for name, one in self.watching(value).items()}})

    def _ids(self, value: object) -> NDArray[np.int64]:
        most, known = self.declared.max_tokens, self.declared.vocabulary
        try:
            ids = np.asarray(value)
        except ValueError as error:
            raise InputError("token_ids must be one list", "token_ids") from error
        if ids.ndim != 1 or ids.dtype.kind not in "iu" or not 1 <= ids.size <= most:
            raise InputError(f"token_ids must be 1 to {most} whole numbers", "token_ids")
        if int(ids.min()) < 0 or int(ids.max()) >= known:
            raise InputError(f"token_ids must be from 0 to {known - 1}", "token_ids")
        return ids.astype(np.int64)

    def example(self, calls: Mapping[str, Arrays]) -> dict[str, Any]:
        """Token ids, or the words that they stand for, and the first features of each expert, rounded."""
        tensors = calls["text"]
        ids: list[int] = tensors["input_ids"][tensors["attention_mask"] != 0].tolist()
        words = self._tokenizer.decode(ids) if self._tokenizer is not None else ""
        text: dict[str, Any] = {"text": words or "a video"} if self._tokenizer is not None else {"token_ids": ids}
        return {**text, "video": self.experts.item(calls["video"], EXAMPLE_ROWS)}

    def joint_metrics(self, outputs: Mapping[str, Arrays], labels: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        """Retrieval in both directions; a text and a video with the same label belong together."""
        text, video = outputs["text"], outputs["video"]
        scores = similarities(
            *(text[name] for name in ("text_embedding", "text_weights")),
            *(video[name] for name in ("video_embedding", "availability")),
            keep_missing=self.declared.keep_missing_modalities,
        )
        return both_ways(("text", "video"), scores, (labels["text"], labels["video"]))

    def schemas(self) -> dict[str, Any]:
        """JSON schemas of the fields of an item."""
        ids = {"type": "integer", "minimum": 0, "maximum": self.declared.vocabulary - 1}
        given = {"token_ids": {"type": "array", "items": ids, "minItems": 1, "maxItems": self.declared.max_tokens}}
        words = {"text": {"type": "string"}} if self._tokenizer is not None else {}
        features = self.experts.schema()
        file = {"type": "string", "contentEncoding": "base64", "description": "a video file"}
        return {**words, **given, "video": {"anyOf": [features, file]} if self.watching.bound else features}

    def text_required(self) -> list[dict[str, Any]]:
        """The ways in which an item may hold a text, as JSON schema has it."""
        return [{"required": [name]} for name in self.schemas() if name in TEXT_FIELDS]


class Score(Operation):
    """A text and a video to their similarity, and what each expert adds: the score is Σ weight·similarity."""

    def __init__(self, task: TextVideo) -> None:
        self.task = task

    def preprocess(self, item: Item) -> Calls:
        _check(item)
        text = self.task.text(item)
        if item.get("video") is None:
            raise InputError("video is missing; a score needs a text and a video", "video")
        return {"text": text, "video": self.task.video(item["video"])}

    def postprocess(self, item: Item, outputs: Mapping[str, Arrays]) -> dict[str, Any]:
        names, keep = self.task.names, self.task.declared.keep_missing_modalities
        text, video = outputs["text"], outputs["video"]
        shares = products(text["text_embedding"], video["video_embedding"], len(names))
        weights = text["text_weights"].astype(np.float64)
        alone = np.divide(shares, weights, out=np.zeros_like(shares), where=weights > 0)
        there = video["availability"] > 0
        if not keep:
            total = weights[there].sum()
            weights = np.where(there, weights / total if total > 0 else 0.0, 0.0)
        (score,) = similarities(
            *(text[name][None] for name in ("text_embedding", "text_weights")),
            *(video[name][None] for name in ("video_embedding", "availability")),
            keep_missing=keep,
        )[0].tolist()
        experts = {
            name: {"weight": float(weights[m]), "similarity": float(alone[m]), "available": bool(there[m])}
            for m, name in enumerate(names)
        }
        return {"score": score, "experts": experts}

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": self.task.schemas(),
            "required": ["video"],
            "anyOf": self.task.text_required(),
            "additionalProperties": False,
        }


class Embed(Operation):
    """A text or a video to its vector. Where missing experts count, a score is the product of the two vectors.

    Where they do not, the vector of a video is 0 for them, and a score is divided by the weights of the others.
    """

    def __init__(self, task: TextVideo) -> None:
        self.task = task

    def preprocess(self, item: Item) -> Calls:
        _check(item)
        if any(item.get(name) is not None for name in TEXT_FIELDS) == (item.get("video") is not None):
            raise InputError("give either a text or a video", "text")
        if item.get("video") is not None:
            return {"video": self.task.video(item["video"])}
        return {"text": self.task.text(item)}

    def postprocess(self, item: Item, outputs: Mapping[str, Arrays]) -> dict[str, Any]:
        ((modality, tensors),) = outputs.items()
        vector = tensors[f"{modality}_embedding"]
        if modality == "text":
            weights = dict(zip(self.task.names, tensors["text_weights"].tolist(), strict=True))
            return {"embedding": vector.tolist(), "modality": modality, "weights": weights}
        there = tensors["availability"] > 0
        if not self.task.declared.keep_missing_modalities:
            vector = vector * np.repeat(there, vector.size // there.size)
        available = dict(zip(self.task.names, there.tolist(), strict=True))
        return {"embedding": vector.tolist(), "modality": modality, "available": available}

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": self.task.schemas(),
            "anyOf": [*self.task.text_required(), {"required": ["video"]}],
            "additionalProperties": False,
        }


def similarities(
    texts: NDArray[Any],
    weights: NDArray[Any],
    videos: NDArray[Any],
    availability: NDArray[Any],
    *,
    keep_missing: bool,
) -> NDArray[np.float64]:
    """Of N texts and K videos, (N, K) in float64, from what the graphs give: (N, M·E), (N, M), (K, M·E), (K, M).

    Without missing experts it is ⟨q, g∘a⟩ / ⟨w, a⟩, and 0 for a video that lacks them all.
    """
    q, w, g, a = (array.astype(np.float64) for array in (texts, weights, videos, availability))
    if keep_missing:
        return q @ g.T
    total = w @ a.T
    scores = q @ (g * np.repeat(a, g.shape[1] // a.shape[1], 1)).T
    return np.divide(scores, total, out=np.zeros_like(scores), where=total > 0)


def products(text: NDArray[Any], video: NDArray[Any], experts: int) -> NDArray[np.float64]:
    """The product of two vectors (M·E), expert by expert: (M)."""
    shares: NDArray[np.float64] = (text.astype(np.float64) * video.astype(np.float64)).reshape(experts, -1).sum(1)
    return shares


def _experts(manifest: Manifest) -> tuple[dict[str, int], int]:
    """Width of each expert's features, in order, and T. Raises BundleError if the graphs are not those of this task."""
    found = {
        name: {spec.name: (spec.dtype, spec.item_dims) for spec in graph.signature.inputs}
        for name, graph in manifest.graphs.items()
    }
    dims = {n.removeprefix(FEATURES): d for n, (_, d) in found.get("video", {}).items() if n.startswith(FEATURES)}
    shapes = [(rows, width) for rows, width in dims.values() if isinstance(rows, int) and isinstance(width, int)]
    if not shapes or len(shapes) < len(dims):
        raise BundleError("a bundle for text_video needs a graph called video, with features_* of its experts")
    tokens = shapes[0][0]
    widths = {name: width for name, (_, width) in zip(dims, shapes, strict=True)}
    fitting: dict[str, Any] = {
        "text": dict.fromkeys(("input_ids", "attention_mask"), ("int64", ("tokens",))),
        "video": {
            **{f"{FEATURES}{name}": ("float32", (tokens, width)) for name, width in widths.items()},
            **{f"maximum_{name}": ("float32", (width,)) for name, width in widths.items()},
            **dict.fromkeys(("positions", "mask"), ("int64", (len(widths), tokens))),
        },
    }
    if found != fitting:
        raise BundleError(f"text_video makes {fitting}, but the graphs take {found}")
    return widths, tokens


def _check(item: Item) -> None:
    if unknown := sorted(set(item) - {*TEXT_FIELDS, "video"}):
        raise InputError(f"{unknown[0]} is not a field here; there are text, token_ids, video", unknown[0])


plugin = TextVideo
