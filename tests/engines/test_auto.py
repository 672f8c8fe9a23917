"""The choice of an engine: measured once, remembered, and said."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.settings import Settings
from tests.serving.building import KEYS, Linear, publish, random_rows, running
from wander.engines import EngineOptions, Session, auto, engines
from wander.engines.base import Engine
from wander.errors import BundleError, EngineError, MissingDependency
from wander.signature import Signature

MODEL = Linear("emotion")


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("WANDER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "engines.json"


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    MODEL.save(tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


class Told(Session):
    """Answers as `Linear`, plus `off`, and takes as long as it is told."""

    def __init__(self, name: str, seconds: float, off: float) -> None:
        super().__init__(MODEL.signature)
        self.name, self.seconds, self.off, self.closed = name, seconds, off, False

    def _run(self, inputs: Any) -> Any:
        if self.seconds < 0:
            raise EngineError("no")
        auto.time.sleep(self.seconds)
        return {"logits": (MODEL(inputs)["logits"] + self.off).astype(np.float32)}

    def describe(self) -> dict[str, str]:
        return {"engine": self.name, "provider": "told", "version": "1", "threads": "1"}

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Engines by name: (seconds, off), or an error at opening. `opened` lists the sessions."""
    what: dict[str, Any] = {"opened": []}

    def kind(name: str) -> type[Engine]:
        class One(Engine):
            @classmethod
            def unavailable(cls) -> str | None:
                return None

            @classmethod
            def open(cls, graph: Path, signature: Signature, options: EngineOptions) -> Session:
                if isinstance(what[name], Exception):
                    raise what[name]
                what["opened"].append(Told(name, *what[name]))
                return what["opened"][-1]

        return One

    monkeypatch.setattr(auto, "TRIAL_S", 0.01)
    monkeypatch.setattr(auto, "candidates", lambda: [name for name in what if name != "opened"])
    real = engines.get
    monkeypatch.setattr(engines, "get", lambda name: kind(name) if name in what else real(name))
    return what


def opened(graph: Path) -> Session:
    return engines.get("auto").open(graph, MODEL.signature, EngineOptions(threads=1))


def test_the_fastest_is_chosen_and_the_others_are_closed(graph: Path, told: dict[str, Any]) -> None:
    told |= {"ort": (0.003, 0), "quick": (0.0, 0), "slow": (0.006, 0)}
    with opened(graph) as session:
        said = session.describe()
        assert (said["engine"], said["chosen"], said["provider"]) == ("auto", "quick", "told")
        assert all(word in said["why"] for word in ("ort ", "quick ", "slow ", "ms a row"))
        assert [one.closed for one in told["opened"]] == [True, False, True]
        np.testing.assert_allclose(session.run(random_rows(2))["logits"], MODEL(random_rows(2))["logits"])
    assert told["opened"][1].closed


@pytest.mark.parametrize(
    ("quick", "note"),
    [
        ((0.0, 1.0), "quick answers otherwise by"),
        ((0.0, np.nan), "quick answers otherwise by inf"),
        ((-1.0, 0), "quick failed"),
        (BundleError("no such operator"), "quick cannot run it"),
        (MissingDependency("no device"), "quick cannot run it"),
    ],
)
def test_who_answers_otherwise_or_not_at_all_is_not_chosen(
    graph: Path, told: dict[str, Any], quick: Any, note: str
) -> None:
    told |= {"ort": (0.002, 0), "quick": quick}
    with opened(graph) as session:
        assert session.describe()["chosen"] == "ort"
        assert note in session.describe()["why"]


def test_if_none_can_the_default_engines_error_is_raised(graph: Path, told: dict[str, Any]) -> None:
    told |= {"ort": BundleError("first"), "quick": BundleError("second")}
    with pytest.raises(BundleError, match="first"):
        opened(graph)


def test_a_choice_is_remembered_for_graph_options_and_machine(
    graph: Path, told: dict[str, Any], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told |= {"ort": (0.002, 0), "quick": (0.0, 0)}
    opened(graph).close()
    told["quick"] = (0.01, 0)  # a trial would now find the other
    with opened(graph) as session:
        assert session.describe()["chosen"] == "quick"
        assert "(remembered)" in session.describe()["why"]
    assert len(told["opened"]) == 3
    with engines.get("auto").open(graph, MODEL.signature, EngineOptions(threads=2)) as session:
        assert session.describe()["chosen"] == "ort"
    monkeypatch.setattr(auto, "_machine", lambda: {"cpu": "another"})
    with opened(graph) as session:
        assert session.describe()["chosen"] == "ort"
    assert len(json.loads(cache.read_text(encoding="utf-8"))) == 3


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 1}'])
def test_a_damaged_memory_is_no_memory(graph: Path, told: dict[str, Any], cache: Path, content: str) -> None:
    told |= {"ort": (0.0, 0)}
    cache.parent.mkdir(parents=True)
    cache.write_text(content, encoding="utf-8")
    opened(graph).close()
    assert [name for name, _ in (v for v in json.loads(cache.read_text()).values() if v != 1)] == ["ort"]


def test_a_memory_that_cannot_be_written_is_said(
    graph: Path, told: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told |= {"ort": (0.0, 0)}
    monkeypatch.setenv("WANDER_CACHE", str(graph))
    opened(graph).close()
    assert "cannot be remembered" in caplog.text


def test_real_engines_are_asked_the_fake_one_never() -> None:
    found = auto.candidates()
    assert found[0] == "ort"
    assert not {"fake", "auto"} & set(found)


def test_a_server_says_what_it_chose_and_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    publish(tmp_path / "models" / "small")
    with (
        caplog.at_level(logging.INFO),
        running(Settings(models=tmp_path / "models", engine="auto", keys=KEYS)) as server,
    ):
        (model,) = server.client.get("/v1/models").json()["models"]
    assert model["engine"]["engine"] == "auto"
    assert model["engine"]["chosen"] in auto.candidates()
    assert "ms a row" in model["engine"]["why"]
    assert f"runs on {model['engine']['chosen']}" in caplog.text


def test_processors_of_one_name_choose_for_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for flags in ("fpu avx2", "fpu avx2 avx512f"):
        told = tmp_path / "cpuinfo"
        told.write_text(f"model name\t: AMD EPYC\nflags\t\t: {flags}\n", encoding="utf-8")
        monkeypatch.setattr(auto, "CPUINFO", told)
        found.append(auto._machine())
    assert found[0] != found[1]
