"""A Dockerfile as its stages and their instructions, and the files that `.dockerignore` lets the builder have."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass
class Stage:
    """`base` is an image or an earlier stage; `instructions` are (name, the rest of its lines joined)."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, name: str) -> list[str]:
        return [text for instruction, text in self.instructions if instruction == name]

    def only(self, name: str) -> str:
        (text,) = self.all(name)
        return text

    @property
    def environment(self) -> dict[str, str]:
        pairs = [part.partition("=") for text in self.all("ENV") for part in shlex.split(text)]
        return {name: value for name, _, value in pairs}

    @property
    def health(self) -> list[str]:
        """The command of its HEALTHCHECK."""
        return list(json.loads(self.only("HEALTHCHECK").partition("CMD ")[2]))


def stages(path: Path = ROOT / "Dockerfile") -> dict[str, Stage]:
    """By name, in order. Every stage has one."""
    lines = [line for line in path.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    found: dict[str, Stage] = {}
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        name, text = line.split(maxsplit=1)
        if name == "FROM":
            base, alias = re.fullmatch(r"(\S+) AS (\S+)", text).groups()  # type: ignore[union-attr]
            current = found[alias] = Stage(alias, base)
        else:
            current.instructions.append((name, text))
    return found


def lineage(every: dict[str, Stage], name: str) -> list[Stage]:
    """A stage and those it stands on, the lowest first."""
    stage = every[name]
    return [*(lineage(every, stage.base) if stage.base in every else []), stage]


def context() -> Iterator[str]:
    """Files of the repository, as git knows them, that `.dockerignore` lets through: `*` first, then exceptions."""
    rules = [line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line[:1] not in ("", "#")]
    assert rules[0] == "*"
    allowed = [rule.removeprefix("!") for rule in rules[1:] if rule.startswith("!")]
    denied = [rule.removeprefix("**/") for rule in rules[1:] if not rule.startswith("!")]
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in listed:
        parts = name.split("/")
        if parts[0] in allowed and not any(fnmatch(part, rule) for part in parts for rule in denied):
            yield name
