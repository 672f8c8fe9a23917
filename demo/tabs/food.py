"""Food: a picture and the ingredients of a recipe; the classes with both, and with each of them alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import gradio as gr

from demo import view
from demo.drawings import DISHES, dish
from demo.models import Model
from demo.tabs.base import Shown, Tab, picture, predict
from serving.client import Client
from wander.errors import InputError

TOP = 5
ALONE = {"image": "The picture alone", "text": "The words alone"}


class Food(Tab):
    title: ClassVar[str] = "Food"
    lead: ClassVar[str] = "Which dish it is, from its picture and the ingredients of its recipe."
    place: ClassVar[int] = 3
    hint: ClassVar[str] = "Give a picture, ingredients, or both."

    def inputs(self) -> None:
        drawn = [[str(dish(name, self.folder)), words] for name, words in DISHES.items()]
        self.image = picture("Picture", drawn[0][0])
        self.words = gr.Textbox(label="Ingredients", value=drawn[0][1], lines=3, max_length=5000)
        self.ask = gr.Button("Which dish is it?", variant="primary", size="md")
        gr.Examples(drawn, [self.image, self.words], label="Drawn for this page", api_visibility="private")

    def bind(self) -> None:
        self.on(self.ask.click, self.answer, [self.image, self.words])

    def answer(self, client: Client, model: Model, image: str | None, words: str | None) -> Shown:
        given: dict[str, Any] = {}
        if image:
            given["image"] = Path(image)
        if words and words.strip():
            given["text"] = words.strip()
        if not given:
            raise InputError("give a picture, or ingredients", "image")
        asked, answer = predict(client, model, given | {"top_k": TOP})
        title = "Picture and words together" if len(given) == 2 else ALONE[next(iter(given))]
        parts, calls = [view.card(view.bars(_rows(answer)), title=title)], [asked]
        if len(given) == 2:
            alone = []
            for name, value in given.items():
                (other,) = set(given) - {name}
                if model.needs(other):
                    alone.append(view.card(view.note(f"This model needs {other} as well.", "hint"), title=ALONE[name]))
                    continue
                asked, single = predict(client, model, {name: value, "top_k": TOP})
                calls.append(asked)
                alone.append(view.card(view.bars(_rows(single)), title=ALONE[name]))
            parts.append(f'<div class="wd-pair">{"".join(alone)}</div>')
        return Shown("".join(parts), calls, answer)


def _rows(answer: dict[str, Any]) -> list[tuple[str, float]]:
    return [(one["label"].replace("_", " "), one["probability"]) for one in answer["labels"]]


plugin = Food
