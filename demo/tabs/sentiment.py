"""Sentiment: a sentence as it is typed, or features; a score, its class, and which tokens brought it about."""

from __future__ import annotations

from typing import Any, ClassVar

import gradio as gr

from demo import view
from demo.models import Model
from demo.panels import panel
from demo.tabs._features import Features, driven, explained, summary
from demo.tabs.base import Shown, Tab, predict, required
from serving.client import Client

SENTENCES = (
    "I really loved this movie, the acting was great",
    "it was a boring film and the plot made no sense",
    "there are two sequels and they were made in the same year",
)


class Sentiment(Tab):
    title: ClassVar[str] = "Sentiment"
    lead: ClassVar[str] = "How an utterance sounds: from −3, strongly negative, to +3, strongly positive."
    place: ClassVar[int] = 1
    hint: ClassVar[str] = "Ask, and the score will be here."

    def inputs(self) -> None:
        words, features = self.fits(self.first)
        with gr.Column(visible=words) as self.words:
            self.sentence = gr.Textbox(
                label="A sentence", lines=3, placeholder="Type what somebody says", max_length=2000
            )
            gr.Examples([[one] for one in SENTENCES], [self.sentence], label="For example", api_visibility="private")
            self.say = gr.Button("Ask with the sentence", variant="primary", size="md")
        self.features = Features(self.models, features)
        with self.features.group:
            panel(summary(next((m for m in self.models.values() if m.takes_features()), self.first)))

    def fitted(self) -> list[Any]:
        return [self.words, self.features.group]

    def fits(self, model: Model) -> list[bool]:
        return [model.takes_text("text"), model.takes_features()]

    def bind(self) -> None:
        self.features.bind(self.model)
        self.on(self.say.click, self.ask_sentence, [self.sentence])
        self.on(self.sentence.submit, self.ask_sentence, [self.sentence])
        self.on(self.features.ask.click, self.ask_features, [self.features.file])

    def ask_sentence(self, client: Client, model: Model, sentence: str) -> Shown:
        said = required((sentence or "").strip(), "text", "type a sentence")
        return self._ask(client, model, {"text": said})

    def ask_features(self, client: Client, model: Model, path: str | None) -> Shown:
        return self._ask(client, model, self.features.read(path))

    def _ask(self, client: Client, model: Model, item: dict[str, Any]) -> Shown:
        asked, answer = predict(client, model, explained(model, item))
        shown = view.card(view.scale(answer["score"], answer["label"], answer["class7"]), title="Sentiment")
        return Shown(shown + driven(answer), [asked], answer)


plugin = Sentiment
