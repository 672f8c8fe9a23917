"""The page: a tab for every task that there are models of. Imports Gradio, which takes seconds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr
from fastapi import FastAPI

from demo.models import Model
from demo.panels import panel
from demo.service import Service
from demo.tabs import tabs
from demo.tabs.base import Tab
from demo.view import note

STYLE = Path(__file__).with_name("style.css")
HOUR = 3600
MAX_FILE = "30mb"
SYSTEM = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
HEAD = """<header class="wd-head">
<h1>wander</h1>
<p>Adapted multimodal models, asked over HTTP. Every answer below comes from this server's API.</p>
</header>"""


def build(service: Service, models: Sequence[Model], folder: Path) -> gr.Blocks:
    """Args:

    folder: where pictures and clips that visitors add are kept while the page runs.
    """
    by_task: dict[str, list[Model]] = {}
    for model in models:
        by_task.setdefault(model.task, []).append(model)
    kinds = sorted((kind.place, name, kind) for name, kind in tabs if name in by_task)
    made: list[Tab] = [kind(service, by_task[name], folder) for _, name, kind in kinds]
    page = gr.Blocks(title="wander", analytics_enabled=False, delete_cache=(HOUR, HOUR))
    with page:
        panel(HEAD)
        if not made:
            panel(note("The server has no models that can be shown here."))
        else:
            with gr.Tabs(overflow_behavior="wrap"):
                for tab in made:
                    with gr.Tab(tab.title, id=tab.title):
                        tab.lay()
    return page


def mounted(service: Service, models: Sequence[Model], path: str, folder: Path, uploaded: str) -> FastAPI:
    """An application that serves the page under `path`, once its lifespan runs.

    Args:
        folder: for all files. What visitors upload comes below `uploaded` in it, where Gradio looks for it.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(folder / uploaded)
    kept = folder / "kept"
    kept.mkdir(exist_ok=True)
    host = FastAPI(openapi_url=None)
    made: FastAPI = gr.mount_gradio_app(
        host,
        build(service, models, kept),
        path,
        theme=gr.themes.Soft(
            primary_hue=gr.themes.colors.blue, neutral_hue=gr.themes.colors.slate, font=SYSTEM, font_mono=MONO
        ),
        css_paths=[STYLE],
        footer_links=[],
        run_history=False,
        show_error=False,
        allowed_paths=[str(kept)],
        max_file_size=MAX_FILE,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
    )
    return made
