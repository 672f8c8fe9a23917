"""What sentiment and emotion share: features of an utterance, uploaded or those that came with the model."""

from __future__ import annotations

import json
from typing import Any

import gradio as gr
import numpy as np
from gradio import processing_utils

from demo import view
from demo.models import Model, kinds
from demo.tabs.base import item_of, required


class Features:
    """An upload, and a button that fills it with the example of the chosen model."""

    def __init__(self, models: dict[str, Model], visible: bool) -> None:
        self.models = models
        with gr.Column(visible=visible) as self.group:
            self.file = gr.File(
                label="Features (.npz or JSON)",
                file_types=[".npz", ".json"],
                height=132,
            )
            with gr.Row():
                self.example = gr.Button("Use the example", size="md")
                self.ask = gr.Button("Ask with features", variant="primary", size="md")

    def bind(self, model: gr.Dropdown) -> None:
        self.example.click(self._example, model, self.file, api_visibility="private", show_progress="hidden")

    def _example(self, name: str) -> str:
        """The bundle's own example, as a file that can be had and sent again."""
        data = json.dumps(dict(self.models[name].example)).encode()
        return str(processing_utils.save_bytes_to_cache(data, "example.json", self.file.GRADIO_CACHE))

    @staticmethod
    def read(path: str | None) -> dict[str, Any]:
        return item_of(required(path, "file", "upload features, or use the example"))


def summary(model: Model) -> str:
    """Which fields a model takes, with their sizes, as its schema has them."""
    parts = []
    for name, schema in model.fields().items():
        if model.takes_rows(name):
            of_rows = next(one for one in kinds(schema) if one.get("type") == "array")
            rows, width = of_rows.get("maxItems"), of_rows["items"].get("maxItems")
            size = f" up to {rows} × {width}" if rows and width else ""
            parts.append(f"{name}{size}{'' if model.needs(name) else ' (may be left out)'}")
    return view.note(f"One sequence a modality: {', '.join(parts)}.", "hint") if parts else ""


def explained(model: Model, item: dict[str, Any]) -> dict[str, Any]:
    """The item, with the wish for an explanation if the model has any."""
    return {**listed(item), "explain": True} if model.explains else item


def driven(answer: dict[str, Any]) -> str:
    """What brought the answer about, if the model can tell."""
    told = answer.get("explanation")
    if told is None:
        text = "This model cannot tell: its bundle has no graph that explains its answers."
        return view.card(view.note(text, "hint"), title="What drove it")
    return view.card(view.explanation(told, answer.get("tokens") or {}), title="What drove it")


def listed(item: dict[str, Any]) -> dict[str, Any]:
    """The same with lists in place of arrays, beside which other fields can stand."""
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in item.items()}
