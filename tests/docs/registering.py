"""A plug-in of pytest that puts the worked examples of the documentation into the packages that they are made for.

A package looks for plug-ins in its folders; one folder more is as if the examples were copied there. It is used as
`pytest -p tests.docs.registering`.
"""

from __future__ import annotations

import importlib
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
PACKAGES = {
    "adapters": "wander.adapters",
    "backbones": "wander.backbones",
    "engines": "wander.engines",
    "tasks": "wander.tasks",
    "protocols": "serving.protocols",
}


def pytest_configure() -> None:
    for folder, package in PACKAGES.items():
        importlib.import_module(package).__path__.append(str(EXAMPLES / folder))
