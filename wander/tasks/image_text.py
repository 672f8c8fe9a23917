"""Images and texts in one space, as in image-text retrieval with BEiT-3: a vector for each, and how well two fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from wander.errors import BundleError, InputError
from wander.manifest import Manifest, first_problem
from wander.signature import Arrays
from wander.tasks._images import ImagePreprocessing, image_array, small_png
from wander.tasks._retrieval import both_ways
from wander.tasks._texts import Beit3Text
from wander.tasks.base import Calls, Item, Operation, Task

IMAGE = {"type": "string", "contentEncoding": "base64"}
TEXT = {"type": "string"}


class ImageTextPreprocessing(BaseModel):
    """`preprocessing` of a manifest. Texts run at their true length unless `text.pad` is set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: ImagePreprocessing
    text: Beit3Text


class ImageText(Task):
    """Two graphs: `image` (batch, 3, h, w) float32 and `text` (batch, tokens) int64, each to vectors of length 1.

    Their outputs are `image_embedding` and `text_embedding` (batch, E).
    """

    summary: ClassVar[str] = "How well an image and a text fit"
    operations: ClassVar[Mapping[str, str]] = {"score": summary, "embed": "The vector of an image or of a text"}
    measured: ClassVar[str | None] = "embed"
    uploads: ClassVar[tuple[str, ...]] = ("image",)

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        super().__init__(manifest, folder)
        try:
            declared = ImageTextPreprocessing.model_validate(manifest.preprocessing)
        except ValidationError as error:
            raise BundleError(f"preprocessing.{first_problem(error)}") from error
        fitting = {"image": {"image": (3, *declared.image.size)}, "text": dict.fromkeys(Beit3Text.names, ("tokens",))}
        found = {
            name: {spec.name: spec.item_dims for spec in graph.signature.inputs}
            for name, graph in manifest.graphs.items()
        }
        if found != fitting:
            raise BundleError(f"preprocessing makes {fitting}, but the graphs take {found}")
        self._image = declared.image
        self._tokenizer = declared.text.load(folder)

    def operation(self, name: str) -> Operation:
        return Score(self) if name == "score" else Embed(self)

    def tensors(self, item: Item, field: str) -> dict[str, Any]:
        """The tensors of an item's image or text, for the graph of that name. Raises InputError that names it."""
        if field == "image":
            return {"image": image_array(item["image"], self._image)}
        return dict(self._tokenizer(item["text"]))

    def example(self, calls: Mapping[str, Arrays]) -> dict[str, Any]:
        """The picture, small, as a PNG file in base64, and the text, as far as the vocabulary tells them."""
        text = self._tokenizer.decode(calls["text"]["text_ids"].tolist())
        return {"image": small_png(calls["image"]["image"], self._image), "text": text or "a picture"}

    def joint_metrics(self, outputs: Mapping[str, Arrays], labels: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        """Retrieval in both directions; an image and a text with the same label belong together."""
        text, image = (outputs[side][f"{side}_embedding"].astype(np.float64) for side in ("text", "image"))
        return both_ways(("text", "image"), text @ image.T, (labels["text"], labels["image"]))


class Score(Operation):
    """An image and a text to the product of their vectors, from -1 to 1."""

    def __init__(self, task: ImageText) -> None:
        self.task = task

    def preprocess(self, item: Item) -> Calls:
        _check(item, ("image", "text"))
        for name in ("image", "text"):
            if item.get(name) is None:
                raise InputError(f"{name} is missing; a score needs an image and a text", name)
        return {name: self.task.tensors(item, name) for name in ("image", "text")}

    def postprocess(self, item: Item, outputs: Mapping[str, Arrays]) -> dict[str, Any]:
        image, text = outputs["image"]["image_embedding"], outputs["text"]["text_embedding"]
        return {"score": float(np.dot(image.astype(np.float64), text.astype(np.float64)))}

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {"image": IMAGE, "text": TEXT},
            "required": ["image", "text"],
            "additionalProperties": False,
        }


class Embed(Operation):
    """An image or a text to its vector."""

    def __init__(self, task: ImageText) -> None:
        self.task = task

    def preprocess(self, item: Item) -> Calls:
        name = self._which(item)
        return {name: self.task.tensors(item, name)}

    def postprocess(self, item: Item, outputs: Mapping[str, Arrays]) -> dict[str, Any]:
        name = self._which(item)
        return {"embedding": outputs[name][f"{name}_embedding"].tolist(), "modality": name}

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {"image": IMAGE, "text": TEXT},
            "oneOf": [{"required": ["image"]}, {"required": ["text"]}],
            "additionalProperties": False,
        }

    @staticmethod
    def _which(item: Item) -> str:
        _check(item, ("image", "text"))
        given = [name for name in ("image", "text") if item.get(name) is not None]
        if len(given) != 1:
            raise InputError("give either an image or a text", "image")
        return given[0]


def _check(item: Item, fields: tuple[str, ...]) -> None:
    if unknown := sorted(set(item) - set(fields)):
        raise InputError(f"{unknown[0]} is not a field here; there are {', '.join(fields)}", unknown[0])


plugin = ImageText
