"""Models come, change and go while others are asked: swapped and never stopped, and a bad version changes nothing."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from serving.folders import ALIASES
from serving.metrics import Metrics
from serving.repository import Repository
from serving.service import Service, Target
from serving.settings import Settings
from tests.serving.building import Linear, item, publish, random_rows, running, wait_until
from wander.bundle import MANIFEST, Bundle
from wander.errors import BundleError, Forbidden, NotFound, NotReady


@contextmanager
def controlled(folder: Path, control: str = "explicit", **settings: Any) -> Iterator[Repository]:
    chosen = Settings(models=folder, model_control=control, **settings)
    repository = Repository(chosen, Metrics())
    repository.load()
    try:
        yield repository
    finally:
        repository.close()


def state(repository: Repository, name: str, version: str) -> tuple[str, str]:
    return next((s.state, s.reason) for s in repository.index() if (s.name, s.version) == (name, version))


def spoil(bundle: Bundle) -> None:
    (bundle.path / "model.onnx").write_bytes(b"half of it")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    publish(tmp_path / "models" / "mosi", Linear(seed=0))
    return tmp_path / "models"


# explicit


@pytest.mark.parametrize("control", ["none", "poll"])
def test_loading_by_hand_must_be_asked_for(folder: Path, control: str) -> None:
    with controlled(folder, control) as repository:
        for call in (repository.load_model, repository.unload_model):
            with pytest.raises(Forbidden, match="--model-control explicit"):
                call("mosi")


def test_new_version_takes_the_place_of_the_old(folder: Path) -> None:
    with controlled(folder) as repository:
        old = repository.get("mosi")
        publish(folder / "mosi", Linear(seed=1))
        assert repository.get("mosi") is old  # nothing happens by itself
        assert repository.load_model("mosi").version == "2"
        assert repository.get("mosi").version == "2"
        wait_until(lambda: state(repository, "mosi", "1") == ("UNAVAILABLE", ""))
        with pytest.raises(NotFound, match="has version 2 loaded, not '1'"):
            repository.get("mosi", "1")
        assert repository.load_model("mosi", "1").version == "1"  # and back
        assert [model.version for model in repository.models] == ["1"]


def test_what_is_loaded_already_is_not_loaded_again(folder: Path) -> None:
    with controlled(folder) as repository:
        before = repository.get("mosi")
        assert repository.load_model("mosi") is before


def test_same_version_with_other_files_is_loaded_again(folder: Path) -> None:
    with controlled(folder) as repository:
        before = repository.get("mosi")
        shutil.rmtree(folder / "mosi" / "1")
        publish(folder / "mosi", Linear(seed=5))
        after = repository.load_model("mosi")
        assert after is not before
        assert after.version == "1"
        wait_until(lambda: state(repository, "mosi", "1") == ("READY", ""))


@pytest.mark.parametrize("named", ["other", "..", ".", "", "mosi/1", "/etc", "mosi.rejected"])
def test_unknown_model_or_path(folder: Path, named: str) -> None:
    with controlled(folder) as repository:
        with pytest.raises(NotFound):
            repository.load_model(named)
        with pytest.raises(NotFound, match="there is no model"):
            repository.unload_model(named)


@pytest.mark.parametrize("version", ["2", "..", "1/../1", "01", "stable"])
def test_unknown_version(folder: Path, version: str) -> None:
    with controlled(folder) as repository, pytest.raises(NotFound, match="it has 1"):
        repository.load_model("mosi", version)


def test_unloaded_model_is_gone_until_it_is_loaded(folder: Path) -> None:
    with controlled(folder) as repository:
        repository.unload_model("mosi")
        with pytest.raises(NotFound, match="there are: none"):
            repository.get("mosi")
        wait_until(lambda: state(repository, "mosi", "1") == ("UNAVAILABLE", ""))
        repository.load_model("mosi")
        assert repository.get("mosi").version == "1"


def test_names_to_start_with(folder: Path) -> None:
    publish(folder / "iemocap", Linear("emotion"))
    with controlled(folder, load="iemocap") as repository:
        assert [model.name for model in repository.models] == ["iemocap"]
    with controlled(folder, load="") as repository:
        assert repository.ready
        assert repository.models == []


# A bad version


def test_bad_version_leaves_the_old_one_and_says_why(folder: Path) -> None:
    with controlled(folder) as repository:
        spoil(publish(folder / "mosi", Linear(seed=1))[0])
        with pytest.raises(BundleError, match=r"model\.onnx was altered"):
            repository.load_model("mosi")
        assert repository.get("mosi").version == "1"
        found, reason = state(repository, "mosi", "2")
        assert found == "UNAVAILABLE"
        assert "model.onnx was altered" in reason


def test_version_that_answers_wrongly_is_not_served(folder: Path) -> None:
    with controlled(folder) as repository:
        publish(folder / "mosi", Linear(seed=1), answers=Linear(seed=2))
        with pytest.raises(BundleError, match="differs from its stored reference"):
            repository.load_model("mosi")
        assert repository.get("mosi").version == "1"


# Aliases


def test_aliases_are_served_beside_the_latest(folder: Path) -> None:
    publish(folder / "mosi", Linear(seed=1))
    publish(folder / "mosi", Linear(seed=2))
    (folder / "mosi" / ALIASES).write_text('{"stable": "1", "canary": "3"}')
    with controlled(folder, "none") as repository:
        assert [model.version for model in repository.models] == ["3", "1"]
        for named, version in ((None, "3"), ("latest", "3"), ("stable", "1"), ("canary", "3"), ("1", "1")):
            assert repository.get("mosi", named).version == version
        with pytest.raises(NotFound, match="3, 1, stable, canary"):
            repository.get("mosi", "2")


@pytest.mark.parametrize(
    "text", ["[]", '{"2": "1"}', '{"latest": "1"}', '{"stable": 1}', '{"": "1"}', '{"stable": "../1"}', "{", "\xff"]
)
def test_aliases_that_make_no_sense(folder: Path, text: str) -> None:
    (folder / "mosi" / ALIASES).write_text(text, encoding="latin-1")
    with pytest.raises(BundleError, match=ALIASES), controlled(folder, "none"):
        pass


# poll


def test_polled_folder_is_followed(folder: Path) -> None:
    with controlled(folder, "poll") as repository:
        publish(folder / "mosi", Linear(seed=1))
        publish(folder / "iemocap", Linear("emotion"))
        repository.refresh()
        assert [(m.name, m.version) for m in repository.models] == [("iemocap", "1"), ("mosi", "2")]
        same = repository.models
        repository.refresh()
        assert repository.models == same
        shutil.rmtree(folder / "iemocap")
        shutil.rmtree(folder / "mosi" / "2")
        repository.refresh()
        assert [(m.name, m.version) for m in repository.models] == [("mosi", "1")]
        (folder / "mosi" / ALIASES).write_text('{"stable": "1"}')
        repository.refresh()
        assert repository.get("mosi", "stable").version == "1"


def test_polled_folder_may_be_empty_or_bad_at_first(tmp_path: Path) -> None:
    with controlled(tmp_path, "poll") as repository:
        assert repository.ready
        spoil(publish(tmp_path / "mosi")[0])
        repository.refresh()
        assert repository.models == []
        assert "was altered" in state(repository, "mosi", "1")[1]


def test_restart_serves_the_latest_version_that_is_good(folder: Path) -> None:
    spoil(publish(folder / "mosi", Linear(seed=1))[0])
    with controlled(folder, "poll") as repository:
        assert repository.get("mosi").version == "1"


def test_bad_version_is_tried_again_only_when_its_folder_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    verify = Bundle.verify
    monkeypatch.setattr(Bundle, "verify", lambda self: (tried.append(self.version), verify(self))[1])
    with controlled(folder, "poll") as repository:
        bundle, good = publish(folder / "mosi", Linear(seed=1))
        spoil(bundle)
        for _ in range(3):
            repository.refresh()
        assert tried == ["1", "2"]
        good.save(bundle.path / "model.onnx")  # the copy is complete now
        repository.refresh()
        assert tried == ["1", "2", "2"]
        assert repository.get("mosi").version == "2"


def test_half_copied_version_is_served_once_it_is_whole(folder: Path, tmp_path: Path) -> None:
    """Whatever the order in which its files come, and however often the folder is looked at meanwhile."""
    whole, _ = publish(tmp_path / "elsewhere" / "mosi", Linear(seed=1))
    files = [path for path in whole.path.rglob("*") if path.is_file()]
    with controlled(folder, "poll") as repository:
        for first in (MANIFEST, "model.onnx"):
            target = folder / "mosi" / "2"
            for path in sorted(files, key=lambda path: path.name != first):
                copy = target / path.relative_to(whole.path)
                copy.parent.mkdir(parents=True, exist_ok=True)
                content = path.read_bytes()
                copy.write_bytes(content[: len(content) // 2])
                repository.refresh()
                assert repository.get("mosi").version == "1"
                copy.write_bytes(content)
                repository.refresh()
            assert repository.get("mosi").version == "2"
            shutil.rmtree(target)
            repository.refresh()
            assert repository.get("mosi").version == "1"


# Swap, never stop


def test_old_version_answers_those_who_are_on_it(folder: Path) -> None:
    """The old version is closed when its last request is answered, not before; new requests get the new one."""
    with running(Settings(models=folder, model_control="explicit", engine="fake", instances=1)) as server:
        repository = server.service.repository
        old, session = repository.get("mosi"), server.session("mosi")
        session.gate.clear()
        answers: list[dict[str, Any]] = []
        asking = threading.Thread(
            target=lambda: answers.append(server.post("/v1/sentiment", json={"items": [item()] * 6}).json())
        )
        asking.start()
        wait_until(lambda: bool(session.batches))
        publish(folder / "mosi", Linear(seed=1))
        repository.load_model("mosi")
        assert server.post("/v1/sentiment", json=item()).json()["version"] == "2"
        assert not session.closed
        assert state(repository, "mosi", "1")[0] == "UNLOADING"
        session.gate.set()
        asking.join()
        assert [result["version"] for result in answers[0]["results"]] == ["1"] * 6
        wait_until(lambda: session.closed)
        assert old.leases == 0


def test_requests_never_fail_while_versions_are_swapped(folder: Path) -> None:
    publish(folder / "mosi", Linear(seed=1))
    expected = {str(seed + 1): Linear(seed=seed)(random_rows(1))["score"].item() for seed in (0, 1)}
    settings = Settings(models=folder, model_control="explicit")
    with controlled(folder) as repository:
        service = Service(repository, settings, repository.metrics)

        async def ask(until: threading.Event) -> dict[str, int]:
            seen = dict.fromkeys(expected, 0)
            while not until.is_set():
                answer = await service.predict(Target("sentiment"), item())
                assert answer.content["score"] == pytest.approx(expected[answer.model.version], abs=1e-5)
                seen[answer.model.version] += 1
            return seen

        async def test() -> None:
            done = threading.Event()
            asking = [asyncio.create_task(ask(done)) for _ in range(4)]
            for turn in range(10):
                await asyncio.to_thread(repository.load_model, "mosi", str(turn % 2 + 1))
            done.set()
            for seen in await asyncio.gather(*asking):
                assert min(seen.values()) > 0

        asyncio.run(test())


def test_what_was_counted_of_a_version_goes_with_it(folder: Path) -> None:
    with controlled(folder) as repository:
        publish(folder / "mosi", Linear(seed=1))
        repository.metrics.stages.labels("mosi", "1", "linear", "ort", "queue").observe(1)
        repository.load_model("mosi")
        registry = repository.metrics.registry
        labels = {"model": "mosi", "version": "1", "adapter": "linear", "engine": "ort", "stage": "queue"}
        wait_until(lambda: registry.get_sample_value("wander_stage_seconds_count", labels) is None)


# Memory


def test_longest_unused_model_makes_room_and_comes_back(folder: Path) -> None:
    size = (folder / "mosi" / "1" / "model.onnx").stat().st_size
    for name in ("other", "third"):
        publish(folder / name, Linear(seed=3))
    with controlled(folder, memory_mb=2.5 * size / 1e6, instances=1) as repository:
        assert [model.name for model in repository.models] == ["other", "third"]
        with pytest.raises(NotReady, match="being loaded again"):
            repository.get("mosi")
        wait_until(lambda: repository.served("mosi") is not None)
        assert repository.get("mosi").version == "1"
        assert [model.name for model in repository.models] == ["mosi", "third"]
        with repository.get("third").lease():
            with pytest.raises(NotReady):
                repository.get("other")
            wait_until(lambda: repository.served("other") is not None)
        assert [model.name for model in repository.models] == ["other", "third"]  # what is in use stays


def test_model_that_finds_no_room(folder: Path) -> None:
    message = r"needs .* MB, and the models in use take 0.0 MB of the 0.0 MB"
    with pytest.raises(BundleError, match=message), controlled(folder, memory_mb=1e-6):
        pass


# Names


def test_graphs_of_two_models_cannot_have_one_name(folder: Path) -> None:
    bundle, _ = publish(folder / "clip")
    manifest = json.loads((bundle.path / MANIFEST).read_text())
    publish(folder / "clip-model")
    with controlled(folder) as repository:
        assert repository.graph("clip")[1] == "model"
        assert repository.graph("clip-model")[0].name == "clip-model"
        twin = {**manifest["graphs"], "other": manifest["graphs"]["model"]}
        fake = Bundle(bundle.path, bundle.manifest.model_validate({**manifest, "graphs": twin}))
        model = repository.get("clip")
        model.bundle = fake
        with pytest.raises(BundleError, match="'clip-model', as one of model 'clip-model'"):
            repository._put("clip", repository.served("clip"))  # type: ignore[arg-type]
