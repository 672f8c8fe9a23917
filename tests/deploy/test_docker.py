"""What can be known of the images without a builder: linted, of one mind with pyproject.toml, and every step run here.

The steps themselves need the package index: WANDER_TEST_NETWORK=1 pytest -m slow tests/deploy/test_docker.py
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import wander
from serving.doctor.selftest import make_bundle
from tests.deploy.dockerfile import ROOT, Stage, context, lineage, stages

STAGES = stages()
TARGETS = ("cpu", "gpu", "export", "demo")
EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if "==" in line)
OUTSIDE = {"PIP_EXTRA_INDEX_URL"}
"""Variables of a stage that the steps are run without here: other indexes than the general one."""
each_target = pytest.mark.parametrize("target", TARGETS)


def runs(name: str) -> list[str]:
    return [text for stage in lineage(STAGES, name) for text in stage.all("RUN")]


def extras_of(target: str) -> set[str]:
    """Those that the stage of a target's packages installs."""
    return {
        extra
        for text in runs(f"{target}-packages")
        for several in re.findall(r"'(?:\.|wander)\[([\w,]+)\]'", text)
        for extra in several.split(",")
    }


def distributions(extra: str) -> set[str]:
    return {re.match(r"[\w.-]+", requirement)[0].lower() for requirement in EXTRAS[extra]}  # type: ignore[index]


@pytest.mark.skipif(
    shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") is None,
    reason="hadolint is not installed; it is in the extra dev",
)
def test_the_linter_finds_nothing() -> None:
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    done = subprocess.run([str(program), ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_server_on_processors_is_what_is_built_if_no_target_is_named() -> None:
    assert list(STAGES)[-1] == "cpu"
    assert set(TARGETS) <= set(STAGES)


def test_the_base_is_pinned_and_there_is_one() -> None:
    images = {stage.base for stage in STAGES.values()} - set(STAGES)
    (image,) = images
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", image)


@each_target
def test_nobody_is_root(target: str) -> None:
    assert STAGES[target].all("USER") == ["1000:1000"]
    assert "--uid 1000" in STAGES["base"].only("RUN")


@each_target
def test_a_target_holds_packages_and_nothing_that_built_them(target: str) -> None:
    assert STAGES[target].base == "base"
    assert STAGES[target].all("COPY") == [f"--from={target}-packages /opt/wander /opt/wander"]
    assert STAGES[target].all("RUN") == []


@each_target
def test_its_health_is_looked_at(target: str) -> None:
    said = STAGES[target].only("HEALTHCHECK")
    if target == "export":  # runs to its end
        assert said == "NONE"
        return
    command, option, code = STAGES[target].health
    assert (command, option) == ("python", "-c")
    compile(code, "HEALTHCHECK", "exec")


@pytest.mark.parametrize("name", STAGES)
def test_packages_come_by_constraints(name: str) -> None:
    for text in STAGES[name].all("RUN"):
        for command in text.split("&&"):
            if "pip install" in command or "pip wheel" in command:
                assert "--no-cache-dir" in command
                assert "--constraint constraints.txt" in command or "--no-deps" in command


@each_target
def test_extras_exist(target: str) -> None:
    assert extras_of(target)
    assert extras_of(target) <= set(EXTRAS)


def test_torch_is_asked_for_by_the_export_alone() -> None:
    heavy = {"torch", "transformers", "onnx", "onnxscript"}
    for target in TARGETS:
        asked = set().union(*map(distributions, extras_of(target)))
        assert bool(asked & heavy) == (target == "export"), target


def test_a_gpu_has_one_onnxruntime_and_the_pinned_tensorrt() -> None:
    assert "gpu" in extras_of("gpu")
    (step,) = STAGES["gpu-packages"].all("RUN")
    remove, install = step.split("&&")
    assert "uninstall --yes onnxruntime" in remove
    assert "wander[gpu]" in install
    assert PINS["onnxruntime-gpu"] == PINS["onnxruntime"]
    assert PINS["tensorrt-cu13"].startswith("10.")


def test_what_is_copied_is_there_and_is_sent() -> None:
    sent = set(context())
    for stage in STAGES.values():
        for text in stage.all("COPY"):
            if "--from=" not in text:
                for source in shlex.split(text)[:-1]:
                    assert source == "." or source in sent, source
    assert not any("__pycache__" in name for name in sent)
    assert {name.split("/")[0] for name in sent} == {
        "LICENSE", "README.md", "constraints.txt", "pyproject.toml", "demo", "export", "serving", "wander",
    }  # fmt: skip


def test_a_file_that_packages_depend_on_is_not_code() -> None:
    """Else every change of a line would install everything again."""
    copied = {name for text in STAGES["packages"].all("COPY") for name in shlex.split(text)[:-1]}
    assert copied == {"LICENSE", "constraints.txt", "pyproject.toml", "wander/__init__.py"}
    imports = [line for line in (ROOT / "wander" / "__init__.py").read_text("utf-8").splitlines() if "import" in line]
    assert not [line for line in imports if line.startswith(("import", "from"))]


class Rehearsal:
    """The steps of a target in an empty folder, which stands for the root of the image.

    The stage `base` is left out: its one step makes a user, and the interpreter is one that is here. Other indexes are
    left out too (`OUTSIDE`).
    """

    PLACES = ("/opt/wander", "/src", "/wheels", "/models", "/indexes")

    def __init__(self, root: Path) -> None:
        self.root = root
        interpreter = shutil.which("python3.11", path="/usr/bin") or sys._base_executable  # type: ignore[attr-defined]
        subprocess.run([interpreter, "-m", "venv", root / "python"], check=True)
        for place in self.PLACES[1:]:
            (root / place[1:]).mkdir()

    def here(self, text: str) -> str:
        return re.sub("|".join(rf"(?<![\w.]){place}\b" for place in self.PLACES), lambda m: f"{self.root}{m[0]}", text)

    def environment(self, target: str) -> dict[str, str]:
        found = {"LANG": "C.UTF-8"}
        for stage in lineage(STAGES, target):
            found |= {k: self.here(v) for k, v in stage.environment.items() if k not in OUTSIDE}
        path = f"{self.root}/python/bin:/usr/bin:/bin"
        return found | {"PATH": found["PATH"].replace("$PATH", path)}

    def build(self, stage: Stage) -> None:
        """Copies and runs what a stage says. Its base has been built."""
        environment = {k: v for k, v in os.environ.items() if k.startswith(("PIP_", "SSL_", "HTTP", "http"))}
        environment |= self.environment(stage.name)
        source = self.root / "src"
        for instruction, text in stage.instructions:
            if instruction == "COPY" and not text.startswith("--from="):
                *names, target = shlex.split(text)
                for name in context() if names == ["."] else names:
                    place = source / (name if names == ["."] else f"{target}/{Path(name).name}")
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / name, place)
            elif instruction == "RUN":
                subprocess.run(["sh", "-ec", self.here(text)], cwd=source, env=environment, check=True)

    def call(self, target: str, *command: str) -> str:
        """Runs something as the image would, in its root, and gives what it printed."""
        done = subprocess.run(
            self.unprivileged(command), cwd=self.root, env=self.environment(target), capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def unprivileged(self, command: tuple[str, ...] | list[str]) -> list[str]:
        """As the user of the image, who may write nothing here."""
        if os.getuid() != 0:
            return list(command)
        return ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--", *command]

    def protect(self) -> set[Path]:
        """Takes everybody's right to write; returns every file that there is."""
        subprocess.run(["chmod", "-R", "a-w,a+rX", self.root], check=True)
        return set(self.root.rglob("*"))


@pytest.fixture
def rehearsal() -> Iterator[Rehearsal]:
    if not os.environ.get("WANDER_TEST_NETWORK"):
        pytest.skip("installs from the package index: set WANDER_TEST_NETWORK=1")
    root = Path(tempfile.mkdtemp(prefix="wander-image-"))
    root.chmod(0o755)
    yield Rehearsal(root)
    subprocess.run(["chmod", "-R", "u+w", root], check=True)
    shutil.rmtree(root)


def built(rehearsal: Rehearsal, target: str) -> list[str]:
    """Builds a target; returns the packages that are in it."""
    rehearsal.build(STAGES["wheel"])
    shutil.rmtree(rehearsal.root / "src")
    (rehearsal.root / "src").mkdir()
    for stage in lineage(STAGES, f"{target}-packages")[1:]:
        rehearsal.build(stage)
    listed = json.loads(rehearsal.call(target, "python", "-m", "pip", "list", "--format=json"))
    packages = {entry["name"].lower(): entry["version"] for entry in listed}
    for name, version in packages.items():
        if name in PINS:
            assert version.split("+")[0] == PINS[name], name
    assert packages["wander"] == wander.__version__
    rehearsal.call(target, "python", "-m", "pip", "check")
    return list(packages)


@pytest.mark.slow
def test_the_server_s_image_has_no_torch_and_serves_from_a_read_only_root(rehearsal: Rehearsal) -> None:
    packages = built(rehearsal, "cpu")
    assert not {"torch", "transformers", "onnx", "onnxscript", "gradio"} & set(packages)
    make_bundle(rehearsal.root / "models" / "tiny", "ort")
    before = rehearsal.protect()
    command = rehearsal.unprivileged(
        [*json.loads(STAGES["cpu"].only("ENTRYPOINT")), *json.loads(STAGES["cpu"].only("CMD"))]
    )
    environment = rehearsal.environment("cpu") | {"WANDER_PORT": "18765", "WANDER_HOST": "127.0.0.1"}
    process = subprocess.Popen(command, cwd=rehearsal.root, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        healthy = rehearsal.unprivileged(STAGES["cpu"].health)
        until = time.monotonic() + 60
        while subprocess.run(healthy, env=environment, capture_output=True, check=False).returncode:
            assert process.poll() is None, process.stderr.read()  # type: ignore[union-attr]
            assert time.monotonic() < until
            time.sleep(0.2)
    finally:
        process.terminate()
        process.communicate(timeout=30)
    report = json.loads(rehearsal.call("cpu", "wander", "doctor", str(rehearsal.root / "models"), "--json"))
    assert report["passed"]
    assert set(rehearsal.root.rglob("*")) == before


@pytest.mark.slow
def test_the_export_s_image_exports(rehearsal: Rehearsal) -> None:
    packages = built(rehearsal, "export")
    assert "torch" in packages
    with tempfile.TemporaryDirectory() as out:
        os.chmod(out, 0o777)
        shutil.copytree(ROOT / "zoo" / "mosi-sentiment", rehearsal.root / "zoo")
        rehearsal.protect()
        rehearsal.call("export", "wander", "export", str(rehearsal.root / "zoo"), f"{out}/mosi")
        rehearsal.call("export", "wander", "verify", f"{out}/mosi")


@pytest.mark.slow
def test_the_demo_s_image_has_what_it_asks_for(rehearsal: Rehearsal) -> None:
    assert "gradio" in built(rehearsal, "demo")
    rehearsal.protect()
    rehearsal.call("demo", "python", "-c", "import gradio, demo, serving.client, wander.tasks")
