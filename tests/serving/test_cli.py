"""`wander serve` and `wander predict` as processes, as people and scripts start them."""

from __future__ import annotations

import inspect
import io
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import httpx
import numpy as np
import pytest
import typer
from prometheus_client.parser import text_string_to_metric_families

from serving.cli import serve
from serving.settings import Settings
from tests.serving.building import PATIENCE, Linear, item, items, npz, publish, random_rows, wait_until
from tests.serving.conftest import WANDER, Command
from wander.__main__ import main
from wander.bundle import Bundle


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it wrote."""

    code: int
    out: bytes
    err: str

    @property
    def error(self) -> str:
        """The one line with which it failed."""
        assert self.out == b""
        (line,) = self.err.splitlines()
        assert line.startswith("error: ")
        return line


Wander = Callable[..., Done]


@pytest.fixture
def wander(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Wander:
    """Runs a command in this process, which spares its start."""

    def run(*arguments: object, given: bytes = b"") -> Done:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capfdbinary.readouterr()
        assert b"Traceback" not in captured.err
        return Done(int(ended.value.code or 0), captured.out, captured.err.decode())

    return run


def process(*arguments: object, **more: Any) -> Done:
    """Runs a command in a process of its own."""
    done = subprocess.run([WANDER, *map(str, arguments)], capture_output=True, timeout=PATIENCE, check=False, **more)
    assert b"Traceback" not in done.stderr
    return Done(done.returncode, done.stdout, done.stderr.decode())


# serve


def test_announced_lines_work_as_they_are(command: Callable[..., Command]) -> None:
    """The folder's name has a space in it."""
    started = command()
    lines = [line for line in started.announced if "curl" in line]
    assert len(lines) == 2
    for line, model in zip(lines, ("iemocap", "mosi"), strict=True):
        done = subprocess.run(["bash", "-c", line], capture_output=True, timeout=PATIENCE, check=True)
        assert json.loads(done.stdout)["model"] == model
    code, written = started.stop()
    assert code in (0, -signal.SIGTERM)
    assert written == ""


def test_terminated_server_finishes_its_requests(command: Callable[..., Command], http: httpx.Client) -> None:
    """An idle engine waits a second for company here, so that the request is in the queue when the signal comes."""
    started = command("--batch-delay-ms", "1000")
    answers: list[httpx.Response] = []

    def ask() -> None:
        with httpx.Client(timeout=PATIENCE, trust_env=False) as client:
            answers.append(client.post(f"{started.url}/v1/sentiment", json=item()))

    def queued() -> bool:
        families = text_string_to_metric_families(http.get(f"{started.url}/metrics").text)
        rows = {f.name: sum(s.value for s in f.samples) for f in families}
        return rows["wander_queue_rows"] == 1 or bool(answers)

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(queued)
    code, written = started.stop()
    asking.join(PATIENCE)
    assert answers[0].status_code == 200
    assert code in (0, -signal.SIGTERM)
    assert "Traceback" not in written


def test_drain_time_is_a_limit(command: Callable[..., Command], http: httpx.Client) -> None:
    """A client that never ends its request does not keep the server alive, above all if there is no time to drain."""
    started = command("--drain-s", "0")
    host, _, port = started.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as client:
        client.sendall(b"POST /v1/sentiment HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{")
        assert http.get(f"{started.url}/livez").status_code == 200  # answered after the request above has begun
        code, _ = started.stop()
        assert code in (0, -signal.SIGTERM)


def test_folder_without_models(tmp_path: Path) -> None:
    done = process("serve", tmp_path, "--port", 0, "--log-level", "warning")
    assert done.code == 1
    assert "holds no models; make one with: wander export" in done.error


def test_port_in_use(models: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = process("serve", models, "--port", port)
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith(f"error: could not listen on 127.0.0.1:{port}")


@pytest.mark.parametrize(
    "options",
    [
        ["--log-level", "loud"],
        ["--port", "70000"],
        ["--instances", "-1"],
        ["--max-items", "many"],
        ["--colour", "blue"],
    ],
)
def test_wrong_usage(wander: Wander, models: Path, options: list[str]) -> None:
    done = wander("serve", models, *options)
    assert done.code == 2
    assert options[0].strip("-").replace("-", "_") in done.err.replace("-", "_")


def test_every_setting_is_an_option_and_a_variable() -> None:
    app = typer.Typer()
    app.command()(serve)
    parameters = {parameter.name: parameter for parameter in typer.main.get_command(app).params}
    parameters.pop("install_completion", None)
    parameters.pop("show_completion", None)
    assert set(parameters) == set(Settings.model_fields) == set(inspect.signature(serve).parameters)
    for name, field in Settings.model_fields.items():
        assert parameters[name].envvar == f"WANDER_{name.upper()}"
        assert parameters[name].help == field.description
        if name != "models":
            assert f"--{name.replace('_', '-')}" in parameters[name].opts
            assert parameters[name].default == field.default


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_variable_is_read(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    default = Settings.model_fields[name].default
    choices = get_args(Settings.model_fields[name].annotation)
    given = default + 1 if isinstance(default, int | float) else type(default or "")("given")
    if isinstance(default, bool):
        given = not default
    if name in ("trace_ratio", "index_recall"):
        given = default / 2  # one more would be above the maximum
    if type(None) in choices:
        given = choices[0](7)
    elif choices:
        given = next(choice for choice in choices if choice != default)
    monkeypatch.setenv(f"WANDER_{name.upper()}", str(given))
    assert getattr(Settings(), name) == given


def test_variables_reach_the_server_and_an_interrupt_ends_it(
    models: Path, command: Callable[..., Command], http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDER_ENGINE", "fake")
    monkeypatch.setenv("WANDER_MAX_ITEMS", "2")
    started = command("--max-items", "3")
    assert http.get(f"{started.url}/v1/models/mosi").json()["engine"]["engine"] == "fake"
    answers = [http.post(f"{started.url}/v1/sentiment", json={"items": items(count)}) for count in (3, 4)]
    assert [answer.status_code for answer in answers] == [200, 413]  # an option stands above a variable
    code, written = started.stop(signal.SIGINT)
    assert code in (0, 130, -signal.SIGINT)
    assert "Traceback" not in written


# predict

NPY = b"\x93NUMPY\x01\x00F\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }".ljust(79) + b"\n1234"


@pytest.mark.parametrize("rows", [1, 4, 11])
def test_predict_tensors(wander: Wander, bundle: Bundle, tmp_path: Path, rows: int) -> None:
    source, target = tmp_path / "x.npz", tmp_path / "y.npz"
    inputs = random_rows(rows)
    source.write_bytes(npz(**inputs))
    done = wander("predict", bundle.path.parent, "--input", source, "--output", target, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out) == {"bundle": str(bundle.path), "rows": rows, "output": str(target)}
    with np.load(target) as answers:
        assert answers.files == ["score"]
        np.testing.assert_allclose(answers["score"], Linear()(inputs)["score"], atol=1e-5)


def test_predict_equals_the_stored_reference(wander: Wander, bundle: Bundle, tmp_path: Path) -> None:
    samples = bundle.samples("model")
    (tmp_path / "x.npz").write_bytes(npz(**samples.inputs))
    done = wander("predict", bundle.path, "--input", tmp_path / "x.npz", "--output", tmp_path / "y.npz")
    assert done.code == 0, done.err
    with np.load(tmp_path / "y.npz") as answers:
        np.testing.assert_allclose(answers["score"], samples.expected["score"], atol=1e-5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no .npz of tensors"),
        (b"", "no .npz of tensors"),
        (b"text", "no .npz of tensors"),
        (NPY, "no .npz of tensors"),
        (npz(text=np.array([None])), "no .npz of tensors"),
        (npz(text=np.ones((1, 3, 4), np.float32)), "audio is missing"),
        (npz(**random_rows(1), smell=np.ones(1)), "unknown input smell"),
        (npz(**{name: value.astype(np.float64) for name, value in random_rows(1).items()}), "must be float32"),
        (npz(**{name: value[:0] for name, value in random_rows(1).items()}), "text is empty"),
        (npz(**{name: value[:, :1] for name, value in random_rows(1).items()}), "must have shape"),
    ],
    ids=["absent", "empty", "text", "npy", "objects", "missing", "unknown", "dtype", "no rows", "shape"],
)
def test_predict_bad_tensors(
    wander: Wander, bundle: Bundle, tmp_path: Path, content: bytes | None, message: str
) -> None:
    source = tmp_path / "x.npz"
    if content is not None:
        source.write_bytes(content)
    done = wander("predict", bundle.path, "--input", source, "--output", tmp_path / "y.npz")
    assert done.code in (1, 2)
    assert message in done.error
    assert not (tmp_path / "y.npz").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--input", "{x}"], 2, "--output Y.npz"),
        (["--input", "{x}", "--output", "{folder}/no/y.npz"], 2, "cannot be opened"),
        (["--input", "{x}", "--output", "{folder}/y.npz", "--graph", "tower"], 2, "no graph 'tower'"),
        (["--input", "{x}", "--output", "{folder}/y.npz", "--engine", "steam"], 1, "none of the engines"),
        (["--input", "{folder}/absent.jsonl", "--jsonl"], 2, "cannot be opened"),
        (["--jsonl", "--json"], 2, "--json is for tensors"),
    ],
)
def test_predict_wrong_usage(
    wander: Wander, bundle: Bundle, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    (tmp_path / "x.npz").write_bytes(npz(**random_rows(1)))
    filled = [argument.format(x=tmp_path / "x.npz", folder=tmp_path) for argument in arguments]
    done = wander("predict", bundle.path, *filled)
    assert done.code == code
    assert message in done.error


def test_predict_without_a_bundle(wander: Wander, tmp_path: Path) -> None:
    done = wander("predict", tmp_path, "--jsonl")
    assert done.code == 1
    assert "is no bundle" in done.error


def test_predict_items_through_pipes(bundle: Bundle) -> None:
    lines = b"\n".join(json.dumps(one).encode() for one in items(9))
    done = process("predict", bundle.path, "--jsonl", input=lines)
    assert done.code == 0, done.err
    assert done.err == ""
    answers = [json.loads(line) for line in done.out.splitlines()]
    expected = Linear()(random_rows(9))["score"][:, 0].tolist()
    assert [answer["score"] for answer in answers] == pytest.approx(expected, abs=1e-5)
    assert {(answer["model"], answer["version"]) for answer in answers} == {("mosi", "1")}


def test_predict_items_of_files_with_bad_lines(wander: Wander, bundle: Bundle, tmp_path: Path) -> None:
    good = json.dumps(item())
    lines = [good, "no JSON", "", "[]", "{}", good, json.dumps({**item(), "audio": [["loud"] * 3]}), good]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(lines))
    done = wander("predict", bundle.path, "--jsonl", "--input", source, "--output", target)
    assert done.code == 1
    assert done.err.splitlines() == ["4 items failed; their lines hold an error"]
    assert done.out == b""
    answers = [json.loads(line) for line in target.read_text().splitlines()]
    assert [answer.get("error", {}).get("status") for answer in answers] == [None, 400, 422, 422, None, 422, None]
    assert answers[0]["score"] == answers[4]["score"] == answers[6]["score"]


def test_predict_more_items_than_a_request_may_have(
    wander: Wander, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDER_MAX_ITEMS", "4")
    lines = b"\n".join(json.dumps(one).encode() for one in items(11))
    done = wander("predict", bundle.path, "--jsonl", given=lines)
    assert done.code == 0, done.err
    scores = [json.loads(line)["score"] for line in done.out.splitlines()]
    assert scores == pytest.approx(Linear()(random_rows(11))["score"][:, 0].tolist(), abs=1e-5)


def test_predict_takes_the_latest_version(wander: Wander, bundle: Bundle, tmp_path: Path) -> None:
    model = bundle.path.parent
    shutil.copytree(bundle.path, model / "9")
    publish(model)
    done = wander("predict", model, "--jsonl", given=json.dumps(item()).encode())
    assert json.loads(done.out)["version"] == "10"
