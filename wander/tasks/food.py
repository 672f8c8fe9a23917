"""Food from a picture and its recipe: one of several classes, as in UPMC Food-101."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from wander.errors import BundleError, InputError
from wander.manifest import Manifest, first_problem
from wander.signature import Arrays, TensorSpec
from wander.tasks._images import ImagePreprocessing, image_array, small_png
from wander.tasks._texts import BertText
from wander.tasks.base import Calls, Item, Operation, Task
from wander.tasks.emotion import Emotion, softmax

TOP_K = 5


class Missing(BaseModel):
    """What happens if an item lacks a modality. A text without any word is no text.

    Attributes:
        image: `error`, or `mean`: the mean colour everywhere, as in training.
        text: `error`, or `empty`: a text without words, as in training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: Literal["error", "mean"] = "error"
    text: Literal["error", "empty"] = "error"


class FoodPreprocessing(BaseModel):
    """`preprocessing` of a manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: ImagePreprocessing
    text: BertText
    missing: Missing = Missing()


class Food(Task, Operation):
    """A single graph, `model`: `image` (batch, 3, h, w) float32, `input_ids` and `attention_mask` (batch, L) int64.

    An item is `{"image": file, "text": ingredients, "top_k": number of classes to name}`. The graph's `logits` (batch,
    classes) go through a softmax.
    """

    summary: ClassVar[str] = "Class of a dish from its picture and the ingredients of its recipe"
    operations: ClassVar[Mapping[str, str]] = {"": summary}
    output: ClassVar[str] = "logits"
    uploads: ClassVar[tuple[str, ...]] = ("image",)

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        super().__init__(manifest, folder)
        try:
            declared = FoodPreprocessing.model_validate(manifest.preprocessing)
        except ValidationError as error:
            raise BundleError(f"preprocessing.{first_problem(error)}") from error
        self.image, self.missing = declared.image, declared.missing
        self.labels = manifest.labels
        self._check_graph(declared)
        self.tokenizer = declared.text.load(folder)
        self.vocabulary = folder / declared.text.file

    def _check_graph(self, declared: FoodPreprocessing) -> None:
        graph = self.manifest.graphs.get("model")
        if graph is None:
            raise BundleError("a bundle for food needs a graph called model")
        text = (declared.text.max_length,)
        fitting = {
            "image": ("float32", (3, *declared.image.size)),
            "input_ids": ("int64", text),
            "attention_mask": ("int64", text),
        }
        found = {spec.name: (spec.dtype, spec.item_dims) for spec in graph.signature.inputs}
        if found != fitting or not declared.text.pad:
            raise BundleError(f"preprocessing makes {fitting} of fixed length, but the graph takes {found}")
        outputs: list[TensorSpec] = list(graph.signature.outputs)
        dims = outputs[0].item_dims
        if not self.labels or dims != (len(self.labels),):
            raise BundleError(f"labels: {len(self.labels)} names do not fit logits of size {dims}")

    def operation(self, name: str) -> Operation:
        return self

    def preprocess(self, item: Item) -> Calls:
        fields = self.schema()["properties"]
        if unknown := sorted(set(item) - set(fields)):
            raise InputError(f"{unknown[0]} is not a field of this model; it takes {', '.join(fields)}", unknown[0])
        self._top_k(item)
        image, text = item.get("image"), item.get("text")
        if text is None or (isinstance(text, str) and not text.strip()):
            text = None
        for name, value in (("image", image), ("text", text)):
            if value is None and getattr(self.missing, name) == "error":
                raise InputError(f"{name} is missing, and this model declares no substitute for it", name)
        if image is None and text is None:
            raise InputError("image and text are both missing; give at least one of them", "image")
        # The mean colour is exactly 0 once normalised.
        pixels = np.zeros((3, *self.image.size), np.float32) if image is None else image_array(image, self.image)
        return {"model": {"image": pixels, **self.tokenizer("" if text is None else text)}}

    def _top_k(self, item: Item) -> int:
        """How many classes to name; forms hold it as text. Raises InputError that names the field."""
        value, most = item.get("top_k"), len(self.labels)
        if value is None:
            return min(TOP_K, most)
        if isinstance(value, str) and value.isdecimal() and len(value) < 10:
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise InputError(f"top_k must be a whole number from 1 to {most}", "top_k")
        return value

    def postprocess(self, item: Item, outputs: Mapping[str, Arrays]) -> dict[str, Any]:
        probabilities = softmax(outputs["model"]["logits"].astype(np.float64))
        order = np.argsort(-probabilities, kind="stable")
        ranked = [{"label": self.labels[row], "probability": float(probabilities[row])} for row in order]
        return {"labels": ranked[: self._top_k(item)], "label": ranked[0]["label"]}

    def schema(self) -> dict[str, Any]:
        most = len(self.labels)
        names = ("image", "text")
        return {
            "type": "object",
            "properties": {
                "image": {"type": "string", "contentEncoding": "base64"},
                "text": {"type": "string"},
                "top_k": {"type": "integer", "minimum": 1, "maximum": most, "default": min(TOP_K, most)},
            },
            "required": [name for name in names if getattr(self.missing, name) == "error"],
            "anyOf": [{"required": [name]} for name in names],
            "additionalProperties": False,
        }

    def example(self, calls: Mapping[str, Arrays]) -> dict[str, Any]:
        """The picture, small, as a PNG file in base64, and the text, as far as the vocabulary tells them."""
        from tokenizers import Tokenizer

        tensors = calls["model"]
        text = Tokenizer.from_file(str(self.vocabulary)).decode(tensors["input_ids"].tolist())
        return {"image": small_png(tensors["image"], self.image), "text": text or self.labels[0]}

    @classmethod
    def decisions(cls, outputs: Arrays) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The most probable class."""
        return Emotion.decisions(outputs)

    @classmethod
    def metrics(cls, outputs: Arrays, labels: NDArray[Any]) -> dict[str, float]:
        """Accuracy and weighted F1 over the classes."""
        return Emotion.metrics(outputs, labels)


plugin = Food
