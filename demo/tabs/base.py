"""What every tab offers: inputs at one side, the answer at the other, below it who answered and how to ask the same.

Knows no task.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import gradio as gr
from gradio import processing_utils
from gradio.data_classes import ImageData

from demo import view
from demo.calls import Asked, Pasted
from demo.models import Model
from demo.panels import block, panel
from demo.service import Service
from serving.client import Client
from wander.errors import InputError, ServiceError
from wander.npz import read_npz

MAX_UNPACKED = 64 << 20
"""Bytes of an uploaded .npz, unpacked."""


@dataclass(frozen=True)
class Shown:
    """What came of a click.

    Attributes:
        html: the answer, for people.
        calls: what was asked for it.
        answer: the one whose model and timing are told.
    """

    html: str
    calls: Sequence[Asked]
    answer: Mapping[str, Any]


def picture(label: str, value: str | None = None) -> gr.Image:
    """For an image file that is handed on as it was uploaded: the server reads it, and nothing here tries to."""
    made = gr.Image(
        value, label=label, type="filepath", image_mode=None, sources=["upload", "clipboard"], height=260, buttons=[]
    )

    def path_of(payload: ImageData | None) -> str | None:
        return payload.path if payload is not None else None

    # Of a class derived from gr.Image, Gradio would write a stub beside this file.
    made.preprocess = path_of  # type: ignore[method-assign]
    return made


class Tab(ABC):
    """The page of one task.

    Class attributes:
        title, lead: what it is called, and one sentence about it.
        place: among the tabs, from the left.
        hint: what stands where the answer will.
    """

    title: ClassVar[str]
    lead: ClassVar[str]
    place: ClassVar[int]
    hint: ClassVar[str] = "The answer will be here."

    def __init__(self, service: Service, models: Sequence[Model], folder: Path) -> None:
        self.service = service
        self.models = {model.name: model for model in models}
        self.folder = folder

    @abstractmethod
    def inputs(self) -> None:
        """Lays out what a visitor gives."""

    @abstractmethod
    def bind(self) -> None:
        """Says what buttons do, by `on`."""

    def fitted(self) -> list[gr.components.Component]:
        """Inputs that not every model takes."""
        return []

    def fits(self, model: Model) -> list[bool]:
        """Which of them a model takes."""
        return []

    @property
    def first(self) -> Model:
        return next(iter(self.models.values()))

    def lay(self) -> None:
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=300):
                panel(view.note(self.lead))
                self.model = gr.Dropdown(
                    list(self.models),
                    value=self.first.name,
                    label="Model",
                    visible=len(self.models) > 1,
                    filterable=False,
                )
                self.inputs()
            with gr.Column(scale=6, min_width=300):
                self.result = panel(view.waiting(self.hint), "wd-panel wd-result")
                self.facts = panel("")
                with gr.Accordion("The call just made, to paste", open=False, visible=False) as self.pasted:
                    self.curl = gr.Code(label="curl", language="shell", **_CODE)
                    self.python = gr.Code(label="Python", language="python", **_CODE)
                    self.files = gr.File(label="Files that the calls name", file_count="multiple", interactive=False)
        if len(self.models) > 1 and (fitted := self.fitted()):
            self.model.change(self._fit, self.model, fitted, api_visibility="private", show_progress="hidden")
        self.bind()

    def _fit(self, name: str) -> Any:
        updates = [gr.update(visible=fits) for fits in self.fits(self.models[name])]
        return updates[0] if len(updates) == 1 else updates

    def on(
        self, trigger: Callable[..., Any], ask: Callable[..., Shown], inputs: Sequence[gr.components.Component] = ()
    ) -> None:
        """Asks when `trigger` happens: `ask(client, model, *values)` may raise the errors of a service."""
        trigger(
            self._answering(ask),
            inputs=[self.model, *inputs],
            outputs=[self.result, self.facts, self.pasted, self.curl, self.python, self.files],
            api_visibility="private",
            concurrency_limit=4,
            show_progress="minimal",
            show_progress_on=self.result,
        )

    def _answering(self, ask: Callable[..., Shown]) -> Callable[..., tuple[Any, ...]]:
        def answer(request: gr.Request, name: str, *values: Any) -> tuple[Any, ...]:
            try:
                with self.service.client() as client:
                    model = self.models[name]
                    shown = ask(client, model, *values)
                    told = client.model(shown.answer["model"])
            except ServiceError as error:
                field = error.field if isinstance(error, InputError) else None
                said = view.problem("The server could not answer", str(error), field)
                return block(said), "", gr.update(visible=False), "", "", None
            pasted = Pasted(self._address(request), self.service.key is not None, shown.calls)
            curl, python = pasted.curl(), pasted.python()
            cache = self.files.GRADIO_CACHE
            files = [processing_utils.save_bytes_to_cache(data, file, cache) for file, data in pasted.files.items()]
            facts = view.card(view.about(told, shown.answer, Model(told).caveat), title="Who answered")
            listed = gr.update(value=files or None, visible=bool(files))
            return block(shown.html), block(facts), gr.update(visible=True), curl, python, listed

        return answer

    def _address(self, request: gr.Request) -> str:
        """Of the server, as the visitor's browser reaches it."""
        asked = request.request
        if not self.service.mounted or asked is None:
            return self.service.url
        return f"{asked.url.scheme}://{asked.headers.get('host', asked.url.netloc)}"


_CODE: dict[str, Any] = {
    "interactive": False,
    "wrap_lines": True,
    "lines": 1,
    "show_line_numbers": False,
    "buttons": ["copy"],
}


def required(value: Any, field: str, text: str) -> Any:
    """The value, if there is one. Raises InputError that names the field."""
    if not value:
        raise InputError(text, field)
    return value


def item_of(path: str) -> dict[str, Any]:
    """The one item of an uploaded file, JSON or .npz. Raises InputError."""
    file = Path(path)
    if file.suffix == ".npz":
        arrays = read_npz(file.read_bytes(), MAX_UNPACKED)
        rows = {len(array) for array in arrays.values() if array.ndim == 3}
        if rows and (rows != {1} or any(array.ndim != 3 for array in arrays.values())):
            raise InputError("the file holds several items; keep one: (length, features) for each modality", "file")
        return {name: array[0] if array.ndim == 3 else array for name, array in arrays.items()}
    try:
        item = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file.name} is neither an .npz nor JSON: {error}", "file") from error
    if isinstance(item, dict) and isinstance(item.get("items"), list) and len(item["items"]) == 1:
        item = item["items"][0]
    if not isinstance(item, dict):
        raise InputError("the JSON must be one item: an object with the fields of the model", "file")
    return item


def predict(client: Client, model: Model, item: Mapping[str, Any], operation: str = "") -> tuple[Asked, dict[str, Any]]:
    """Asks the model for one item. Raises the errors of a service."""
    named = {"operation": operation} if operation else {}
    asked = Asked("predict", model.task, item, model=model.name, **named)
    return asked, asked.send(client)
