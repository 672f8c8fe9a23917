"""Places of the page where HTML of `demo.view` is shown.

Gradio's own HTML component builds functions of its templates in the browser, which the page's policy forbids. Markdown
shows a block of HTML as it is, as long as no empty line ends it.
"""

from __future__ import annotations

import gradio as gr


def panel(html: str, classes: str = "wd-panel") -> gr.Markdown:
    """HTML whose texts are escaped already."""
    return gr.Markdown(block(html), sanitize_html=False, latex_delimiters=[], elem_classes=classes)


def block(html: str) -> str:
    """The same in one line, which Markdown leaves alone."""
    return " ".join(html.split())
