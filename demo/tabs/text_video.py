"""Text and video: a sentence finds clips, and what each expert counts for; clips can be added."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import gradio as gr

from demo import view
from demo.calls import Asked
from demo.drawings import clips
from demo.kept import Kept
from demo.models import Model
from demo.panels import panel
from demo.tabs._features import listed
from demo.tabs.base import Shown, Tab, item_of, predict, required
from serving.client import Client
from wander.errors import InputError, NotFound

TOP = 6
SUFFIXES = (".mp4", ".webm", ".mov", ".avi", ".mkv")
FEATURES = (".npz", ".json")
PARTS = ("features", "times", "maximum")


class TextVideo(Tab):
    title: ClassVar[str] = "Text & video"
    lead: ClassVar[str] = "A sentence finds clips. A score is the sum, over the experts, of weight times similarity."
    place: ClassVar[int] = 4
    hint: ClassVar[str] = "Add a clip, and search."

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.kept = {name: Kept(self.folder, f"demo-{name}", (*SUFFIXES, *FEATURES)) for name in self.models}

    def inputs(self) -> None:
        self.query = gr.Textbox(label="Look for", value="a person is talking", max_length=1000)
        self.find = gr.Button("Search", variant="primary", size="md")
        (videos,) = self.fits(self.first)
        kinds = "a video file, or features" if videos else "features"
        panel("<h3 class='wd-sub'>Clips of the index</h3>")
        panel(view.note(f"A clip is {kinds}: JSON as the API takes it, or .npz with EXPERT.features.", "hint"))
        self.file = gr.File(label="A clip", file_types=[*(SUFFIXES if videos else ()), *FEATURES], height=132)
        self.name = gr.Textbox(label="What is to be seen", max_length=200)
        with gr.Row():
            self.example = gr.Button("Use the example", size="sm")
            self.add = gr.Button("Add the clip", size="sm")
            self.empty = gr.Button("Empty the index", size="sm")

    def fits(self, model: Model) -> list[bool]:
        return [model.takes_file("video", "embed")]

    def bind(self) -> None:
        self.on(self.find.click, self.search, [self.query])
        self.on(self.query.submit, self.search, [self.query])
        self.on(self.add.click, self.put, [self.file, self.name])
        self.on(self.empty.click, self.clear)
        self.example.click(self._example, self.model, [self.file, self.name], api_visibility="private")

    def _example(self, name: str) -> tuple[str, str]:
        import json

        from gradio import processing_utils

        data = json.dumps({"video": self.models[name].example["video"]}).encode()
        cache = self.file.GRADIO_CACHE
        return processing_utils.save_bytes_to_cache(data, "example.json", cache), "the model's example"

    def search(self, client: Client, model: Model, words: str | None) -> Shown:
        text = required((words or "").strip(), "text", "type what to look for")
        kept = self.kept[model.name]
        asked = Asked("search", kept.index, {"text": text}, top_k=TOP, modality="video", model=model.name)
        try:
            answer = asked.send(client)
        except NotFound:
            if not self._fill(client, model):
                raise InputError("the index has no clips yet; add one", "video") from None
            answer = asked.send(client)
        cells = []
        for hit in answer["hits"]:
            title = str(hit["metadata"].get("title", hit["id"]))
            source = kept.address(hit["id"]) if hit["metadata"].get("playable") else ""
            cells.append(view.clip(source, title, hit["score"], self._experts(client, model, text, hit["id"])))
        found = view.grid(cells) if cells else view.note("The index has no clips yet; add one.", "hint")
        legend = view.note("Under each clip: what every expert adds to the score, weight × similarity.", "hint")
        return Shown(view.card(found, legend, title="Clips, best first"), [asked], answer)

    def _experts(self, client: Client, model: Model, text: str, id: str) -> str:
        """What each expert adds to the score of one clip, if the clip is kept here."""
        item = self.kept[model.name].items.get(id)
        if item is None:
            return ""
        _, told = predict(client, model, {"text": text, **item}, "score")
        experts = told["experts"].items()
        return view.weights({name: one["weight"] * one["similarity"] for name, one in experts if one["available"]})

    def put(self, client: Client, model: Model, path: str | None, name: str | None) -> Shown:
        source = Path(required(path, "video", "choose a clip, or use the example"))
        asked, answer = self._put(client, model, source, (name or "").strip() or source.stem)
        return Shown(view.card(view.note(f"{source.name} is in the index now."), title="Added"), [asked], answer)

    def _put(self, client: Client, model: Model, source: Path, title: str) -> tuple[Asked, dict[str, Any]]:
        kept = self.kept[model.name]
        id, path = kept.add(source, "video")
        playable = path.suffix in SUFFIXES
        try:
            item: dict[str, Any] = {"video": path if playable else video_of(path)}
            metadata = {"title": title, "playable": playable}
            asked = Asked("put_item", kept.index, id, item, metadata=metadata, model=model.name)
            answer = asked.send(client)
        except BaseException:
            kept.drop(id)
            raise
        kept.items[id] = item
        return asked, answer

    def _fill(self, client: Client, model: Model) -> bool:
        """Gradio's own clips, for a model that sees video files."""
        shown = clips() if self.fits(model)[0] else {}
        for path, words in shown.items():
            self._put(client, model, path, words)
        return bool(shown)

    def clear(self, client: Client, model: Model) -> Shown:
        kept = self.kept[model.name]
        asked = Asked("delete_index", kept.index)
        asked.send(client)
        kept.clear()
        return Shown(view.card(view.note("The index is gone."), title="Emptied"), [asked], {"model": model.name})


def video_of(path: Path) -> dict[str, Any]:
    """A video as features of its experts: the JSON of one, or an .npz with arrays named `EXPERT.features` and so on.

    Raises InputError.
    """
    item = item_of(str(path))
    if path.suffix == ".json":
        video = item.get("video", item)
        if not isinstance(video, dict):
            raise InputError("video must be an object with experts", "video")
        return video
    experts: dict[str, dict[str, Any]] = {}
    for name, values in listed(item).items():
        expert, _, part = name.rpartition(".")
        if part not in PARTS:
            expert, part = name, "features"
        experts.setdefault(expert, {})[part] = values
    return {"experts": experts}


plugin = TextVideo
