"""Images and texts in one space: how well a picture and sentences fit, and an index that either finds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import gradio as gr

from demo import view
from demo.calls import Asked
from demo.drawings import DISHES, dish, samples
from demo.kept import Kept
from demo.models import Model
from demo.panels import panel
from demo.tabs.base import Shown, Tab, picture, predict, required
from serving.client import Client
from wander.errors import InputError, NotFound

MOST_SENTENCES = 6
TOP = 6
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")


class ImageText(Tab):
    title: ClassVar[str] = "Image & text"
    lead: ClassVar[str] = "How well pictures and sentences fit, and a small index in which either finds the other."
    place: ClassVar[int] = 5
    hint: ClassVar[str] = "Compare, or search."

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.kept = {name: Kept(self.folder, f"demo-{name}", SUFFIXES) for name in self.models}

    def inputs(self) -> None:
        shown = samples()
        first = str(next(iter(shown), dish("pizza", self.folder)))
        self.image = picture("Picture", first)
        self.words = gr.Textbox(
            label="Sentences, one a line", value="\n".join([*shown.values()][:4]), lines=4, max_length=4000
        )
        self.score = gr.Button("Compare the picture with each sentence", variant="primary", size="md")
        panel("<h3 class='wd-sub'>An index of pictures and sentences</h3>")
        self.query = gr.Textbox(label="Look for", value="an animal on a rock", max_length=1000)
        with gr.Row():
            self.by_text = gr.Button("Pictures that fit the words", variant="primary", size="md")
            self.by_image = gr.Button("Sentences that fit the picture", variant="primary", size="md")
        with gr.Row():
            self.add = gr.Button("Add picture and sentences", size="sm")
            self.empty = gr.Button("Empty the index", size="sm")
        if shown:
            gr.Examples(
                [[str(path)] for path in shown], [self.image], label="Pictures of Gradio's", api_visibility="private"
            )

    def bind(self) -> None:
        self.on(self.score.click, self.compare, [self.image, self.words])
        self.on(self.by_text.click, self.find_pictures, [self.query])
        self.on(self.query.submit, self.find_pictures, [self.query])
        self.on(self.by_image.click, self.find_texts, [self.image])
        self.on(self.add.click, self.put, [self.image, self.words])
        self.on(self.empty.click, self.clear)

    def compare(self, client: Client, model: Model, image: str | None, words: str | None) -> Shown:
        given = Path(required(image, "image", "give a picture"))
        lines = _lines(words)
        calls, answers = zip(
            *(predict(client, model, {"image": given, "text": line}, "score") for line in lines), strict=True
        )
        ranked = sorted(zip(lines, answers, strict=True), key=lambda pair: -pair[1]["score"])
        best = max(ranked[0][1]["score"], 1e-9)
        rows = [(line, answer["score"]) for line, answer in ranked]
        inner = view.scores(rows, best) + view.note("The product of two vectors of length 1: from −1 to 1.", "hint")
        return Shown(view.card(inner, title="How well they fit"), calls, ranked[0][1])

    def find_pictures(self, client: Client, model: Model, words: str | None) -> Shown:
        text = required((words or "").strip(), "text", "type what to look for")
        return self._search(client, model, {"text": text}, "image")

    def find_texts(self, client: Client, model: Model, image: str | None) -> Shown:
        return self._search(client, model, {"image": Path(required(image, "image", "give a picture"))}, "text")

    def _search(self, client: Client, model: Model, item: dict[str, Any], modality: str) -> Shown:
        kept = self.kept[model.name]
        asked = Asked("search", kept.index, item, top_k=TOP, modality=modality, model=model.name)
        try:
            answer = asked.send(client)
        except NotFound:  # the first visitor finds the index filled
            self._fill(client, model)
            answer = asked.send(client)
        hits = answer["hits"]
        if modality == "text":
            best = max((hit["score"] for hit in hits), default=1.0)
            found = view.scores([(str(hit["metadata"].get("title", hit["id"])), hit["score"]) for hit in hits], best)
        else:
            found = view.grid(
                view.picture(kept.address(hit["id"]), str(hit["metadata"].get("title", hit["id"])), hit["score"])
                for hit in hits
            )
        title = "Pictures" if modality == "image" else "Sentences"
        shown = found if hits else view.note(f"The index has no {title.lower()} yet; add some.", "hint")
        return Shown(view.card(shown, title=f"{title}, best first"), [asked], answer)

    def _fill(self, client: Client, model: Model) -> None:
        """A few pictures that anyone may see, and a sentence for each."""
        shown = {**samples(), **{dish(name, self.folder): f"a {name} on a table" for name in DISHES}}
        for path in shown:
            self._picture(client, model, path)
        self._sentences(client, model, list(shown.values()))

    def _picture(self, client: Client, model: Model, source: Path) -> tuple[Asked, dict[str, Any]]:
        kept = self.kept[model.name]
        id, path = kept.add(source, "image")
        asked = Asked("put_item", kept.index, id, {"image": path}, metadata={"title": source.name}, model=model.name)
        try:
            return asked, asked.send(client)
        except BaseException:
            kept.drop(id)
            raise

    def _sentences(self, client: Client, model: Model, lines: Sequence[str]) -> Asked:
        items = [{"id": f"text: {line}"[:256], "text": line, "metadata": {"title": line}} for line in lines]
        asked = Asked("put_items", self.kept[model.name].index, items, model=model.name)
        for one in asked.send(client):
            if isinstance(one, Exception):
                raise one
        return asked

    def put(self, client: Client, model: Model, image: str | None, words: str | None) -> Shown:
        lines = _lines(words) if words and words.strip() else []
        asked, answer = self._picture(client, model, Path(required(image, "image", "give a picture")))
        calls = [asked, *([self._sentences(client, model, lines)] if lines else [])]
        told = (
            f"1 picture and {len(lines)} sentences are in the index now." if lines else "The picture is in the index."
        )
        return Shown(view.card(view.note(told), title="Added"), calls, answer)

    def clear(self, client: Client, model: Model) -> Shown:
        kept = self.kept[model.name]
        asked = Asked("delete_index", kept.index)
        asked.send(client)
        kept.clear()
        told = view.note("The index is gone; the next search fills it with the pictures of this page.")
        return Shown(view.card(told, title="Emptied"), [asked], {"model": model.name})


def _lines(words: str | None) -> list[str]:
    """Raises InputError for none, and for too many."""
    found = [line.strip() for line in (words or "").splitlines() if line.strip()]
    if not 1 <= len(found) <= MOST_SENTENCES:
        raise InputError(f"give 1 to {MOST_SENTENCES} sentences, one a line", "text")
    return list(dict.fromkeys(found))


plugin = ImageText
