"""The two commands, called as the shell calls them, and the numbers that they print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.conftest import TINY, write_split
from wander.__main__ import main
from wander.checkpoints.folder import load, read_json
from wander.errors import UsageError
from wander.training.cli import parsed, portable

SETTINGS = [
    part
    for name, value in TINY.items()
    for part in ("--set", f"{name}.epochs={value['epochs']}" if isinstance(value, dict) else f"{name}={value}")
]


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    printed = capsys.readouterr()
    return int(stopped.value.code or 0), printed.out, printed.err


@pytest.fixture
def checkpoint(tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    out = tmp_path / "trained"
    code, _, err = call(capsys, "train", "sentiment", "--data", str(tiny_data), "--out", str(out), *SETTINGS)
    assert code == 0, err
    write_split(tiny_data, "test", ["x0", "x1", "x2"], seed=4)
    return out


def expected(checkpoint: Path, data: Path, split: str) -> dict[str, float]:
    """The metrics, computed again from the stored arrays, without the data set's reader, the task or its metrics."""
    loaded = load(checkpoint / "adapter", checkpoint / "backbone")
    padding = loaded.about.preprocessing["padding"]
    with np.load(data / f"mosi_{split}.npz") as file:
        arrays = dict(file)
    scores = []
    for video, segment in zip(arrays["video_id"], arrays["segment"], strict=True):
        mine = [row for row in range(len(arrays["label"])) if arrays["video_id"][row] == video]
        before = [r for r in mine if arrays["segment"][r] < segment]
        after = [r for r in mine if arrays["segment"][r] > segment]
        here = [r for r in mine if arrays["segment"][r] == segment]
        order = here + sorted(before, key=lambda r: -arrays["segment"][r])
        order += sorted(after, key=lambda r: arrays["segment"][r])
        inputs = []
        for modality, field in (("text", "text"), ("audio", "audio"), ("vision", "video")):
            rows = [arrays[field][r] for r in order[: TINY["length"]]]  # type: ignore[misc]
            rows += [np.array(padding[modality], np.float32)] * (TINY["length"] - len(rows))  # type: ignore[operator]
            inputs.append(torch.from_numpy(np.stack(rows)[None]))
        with torch.no_grad():
            scores.append(float(loaded.host(*inputs)))
    truth, score = arrays["label"].astype(float), np.array(scores)
    hit = (truth >= 0) == (score >= 0)
    f1 = 0.0
    for positive in (True, False):
        true, said = (truth >= 0) == positive, (score >= 0) == positive
        both = (true & said).sum()
        precision, recall = both / max(said.sum(), 1), both / max(true.sum(), 1)
        f1 += true.mean() * (0.0 if both == 0 else 2 * precision * recall / (precision + recall))
    seven = np.rint(np.clip(truth, -3, 3)) == np.rint(np.clip(score, -3, 3))
    centred = truth - truth.mean(), score - score.mean()
    corr = (centred[0] * centred[1]).sum() / np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum())
    return {"acc2": hit.mean(), "f1": f1, "acc7": seven.mean(), "mae": np.abs(truth - score).mean(), "corr": corr}


@pytest.mark.parametrize("split", ["test", "valid"])
def test_evaluate_prints_what_an_independent_computation_gives(
    checkpoint: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str], split: str
) -> None:
    code, out, err = call(capsys, "evaluate", str(checkpoint), "--data", str(tiny_data), "--split", split, "--json")
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    assert found["n"] == (15 if split == "test" else 10)
    assert found["engine"] == "torch"
    assert found["metrics"] == pytest.approx(expected(checkpoint, tiny_data, split), abs=1e-5)


def test_valid_metrics_in_the_checkpoint_are_those_of_evaluate(
    checkpoint: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = call(capsys, "evaluate", str(checkpoint), "--data", str(tiny_data), "--split", "valid", "--json")
    stored = read_json(checkpoint / "adapter" / "adapter_config.json")["provenance"]["valid"]
    assert json.loads(out)["metrics"] == pytest.approx(stored, abs=1e-4)


def test_people_get_a_table(checkpoint: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "evaluate", str(checkpoint), "--data", str(tiny_data))
    assert code == 0
    for name in ("ACC-2", "F1", "ACC-7", "MAE", "Corr", "N"):
        assert name in out


def test_train_prints_one_object_and_leaves_an_example(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "head"
    code, printed, err = call(
        capsys, "train", "sentiment", "--data", str(tiny_data), "--out", str(out), "--head-only", "--json", *SETTINGS
    )
    assert (code, err) == (0, "")
    assert set(json.loads(printed)) == {"out", "task", "seed", "valid"}
    assert set(read_json(out / "example.json")) == {"text", "audio", "vision"}


def test_a_checkpoint_holds_its_command_and_no_path_of_this_machine(checkpoint: Path, tmp_path: Path) -> None:
    for name in ("adapter/adapter_config.json", "backbone/config.json"):
        assert str(tmp_path) not in (checkpoint / name).read_text(encoding="utf-8")
    command = read_json(checkpoint / "adapter" / "adapter_config.json")["provenance"]["command"]
    assert command.startswith("wander train sentiment --data data --out trained --seed 0 --set length=4")
    assert portable(Path("../shared/data/mosi")) == "../shared/data/mosi"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "length=0"], "--set length:"),
        (["--set", "lenght=4"], "--set lenght:"),
        (["--set", "host.epochs=x"], "--set host.epochs:"),
        (["--set", "length"], "NAME=VALUE"),
    ],
)
def test_a_wrong_setting_is_named(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    command = ["train", "sentiment", "--data", str(tiny_data), "--out", str(tmp_path / "out"), *arguments]
    code, out, err = call(capsys, *command)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_refused_before_anything_is_trained(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(capsys, "train", "sentiment", "--data", str(tiny_data), "--out", str(tmp_path))
    assert code == 2
    assert "exists already" in err


def test_an_unknown_task_lists_the_recipes(tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "train", "weather", "--data", str(tiny_data), "--out", str(tmp_path / "out"))
    assert code == 2
    assert "there is one for: " in err
    assert "sentiment" in err


def test_wrong_uses_of_evaluate(
    checkpoint: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(tiny_data)]
    (tmp_path / "model.pt").write_bytes(b"")
    for arguments, message in (
        ([str(checkpoint), *data, "--split", "dev"], "splits in this folder: test, train, valid"),
        ([str(checkpoint), *data, "--engine", "ort"], "--engine is for bundles"),
        ([str(checkpoint / "backbone"), *data], "holds no adapter"),
        ([str(tmp_path / "model.pt"), *data], "wander convert"),
        ([str(checkpoint), "--data", str(tmp_path)], "no data set known here"),
    ):
        code, out, err = call(capsys, "evaluate", *arguments)
        assert (code, out) == (2, ""), arguments
        assert message in err.replace("\n", "")


def test_a_bundle_measures_as_its_checkpoint_does(
    checkpoint: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    model = tmp_path / "models" / "tiny"
    code, _, err = call(capsys, "export", str(checkpoint), str(model), "--max-batch-size", "4")
    assert code == 0, err
    found = {}
    for path in (model, checkpoint):
        _, out, _ = call(capsys, "evaluate", str(path), "--data", str(tiny_data), "--json")
        found[path] = json.loads(out)
    assert found[model]["engine"] == "ort"
    assert found[model]["n"] == found[checkpoint]["n"] == 15
    assert found[model]["metrics"] == pytest.approx(found[checkpoint]["metrics"], abs=1e-5)
    code, _, err = call(capsys, "evaluate", str(model), "--data", str(tiny_data), "--engine", "fake")
    assert code == 2
    assert "runs no graph" in err


def test_settings_are_parsed_as_json_or_text() -> None:
    assert parsed(["a=1", "b.c=2.5", "b.d=x", "e=[1, 2]"]) == {"a": 1, "b": {"c": 2.5, "d": "x"}, "e": [1, 2]}
    with pytest.raises(UsageError, match="was set to a value before"):
        parsed(["a=1", "a.b=2"])
