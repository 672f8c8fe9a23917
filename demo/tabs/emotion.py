"""Emotion: a recording, from a microphone or a file, or features; the classes as bars."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import gradio as gr

from demo import view
from demo.models import Model
from demo.panels import panel
from demo.tabs._features import Features, driven, explained, summary
from demo.tabs.base import Shown, Tab, predict, required
from serving.client import Client


class Emotion(Tab):
    title: ClassVar[str] = "Emotion"
    lead: ClassVar[str] = "What somebody feels who speaks."
    place: ClassVar[int] = 2
    hint: ClassVar[str] = "Ask, and the classes will be here."

    def inputs(self) -> None:
        sound, features = self.fits(self.first)
        with gr.Column(visible=sound) as self.sound:
            self.recording = gr.Audio(
                label="A recording of a few seconds",
                sources=["upload", "microphone"],
                type="filepath",
                format="wav",
                buttons=[],
            )
            self.listen = gr.Button("Ask with the recording", variant="primary", size="md")
        self.features = Features(self.models, features)
        with self.features.group:
            panel(summary(next((m for m in self.models.values() if m.takes_features()), self.first)))

    def fitted(self) -> list[Any]:
        return [self.sound, self.features.group]

    def fits(self, model: Model) -> list[bool]:
        return [model.takes_file("audio"), model.takes_features()]

    def bind(self) -> None:
        self.features.bind(self.model)
        self.on(self.listen.click, self.ask_recording, [self.recording])
        self.on(self.features.ask.click, self.ask_features, [self.features.file])

    def ask_recording(self, client: Client, model: Model, path: str | None) -> Shown:
        return self._ask(
            client, model, {"audio": Path(required(path, "audio", "record something, or upload a wav file"))}
        )

    def ask_features(self, client: Client, model: Model, path: str | None) -> Shown:
        return self._ask(client, model, self.features.read(path))

    def _ask(self, client: Client, model: Model, item: dict[str, Any]) -> Shown:
        asked, answer = predict(client, model, explained(model, item))
        ranked = sorted(answer["probabilities"].items(), key=lambda pair: -pair[1])
        shown = view.card(view.bars(ranked), title=f"It sounds {answer['label']}")
        return Shown(shown + driven(answer), [asked], answer)


plugin = Emotion
