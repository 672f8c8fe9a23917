"""A browser on the models that read a sentence and a recording."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.demo.conftest import ROOT, Start, Visit

pytest.importorskip("gradio", reason="the extra demo is not installed")


@pytest.fixture(scope="module")
def visit(browser: Any, start: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    from export.compose import compose
    from export.options import Options
    from export.pipeline import export

    folder = tmp_path_factory.mktemp("raw") / "models"
    for name in ("mosi-sentence", "ravdess-emotion"):
        export(compose(ROOT / "zoo" / name), folder / name, Options(max_batch_size=2))
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield Visit(context.new_page(), start("serve", folder, "--demo", "--port", "0"))
    context.close()


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A second of a tone that swells, 16 kHz, 16 bits."""
    time = np.arange(16_000) / 16_000
    with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((np.sin(2 * np.pi * 220 * time) * time * 20_000).astype("<i2").tobytes())
    return tmp_path / "tone.wav"


def test_a_sentence_and_the_words_that_drove_its_score(visit: Visit) -> None:
    visit.tab("Sentiment")
    panel = visit.page.locator("[role=tabpanel]:visible")
    panel.get_by_label("A sentence").fill("a boring story but I loved the music")
    visit.press("Ask with the sentence")
    float(visit.seen(".wd-number").inner_text())
    assert len(visit.page.locator(".wd-seven li").all()) == 7
    shown = panel.inner_text()
    assert "boring" in shown
    assert "mosi-sentence" in shown
    assert not visit.complaints
    assert not visit.strangers


def test_a_recording_and_the_emotions_in_it(visit: Visit, recording: Path) -> None:
    visit.tab("Emotion")
    panel = visit.page.locator("[role=tabpanel]:visible")
    sound = panel.locator("input[type=file][accept*=audio]").first
    sound.set_input_files(recording)
    panel.locator("audio, .waveform-container, [data-testid=waveform-controls]").first.wait_for(state="attached")
    visit.press("Ask with the recording")
    shown = panel.inner_text()
    assert "ravdess-emotion" in shown
    assert "surprised" in shown
