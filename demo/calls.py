"""Calls of the client, that they can be sent, and shown as lines for a shell and for Python that do the same.

The lines are made of what is sent, not beside it. Files that they name are kept, to be had from the page.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np

from serving.client import Client

INLINE = 600
"""Characters of JSON that stand in a line; more of it is named as a file."""
KEY = "WANDER_KEY"
"""The variable that holds the key wherever a line is pasted. No line holds the key itself."""


class Asked:
    """A call: the name of a method of the client, and its arguments."""

    def __init__(self, method: str, *arguments: Any, **options: Any) -> None:
        self.method, self.arguments, self.options = method, arguments, options

    def send(self, client: Client) -> Any:
        """The answer. Raises the errors of a service."""
        return getattr(client, self.method)(*self.arguments, **self.options)

    @property
    def request(self) -> Any:
        """Method, path, query and body of what is sent."""
        return getattr(Client, self.method)(*self.arguments, **self.options)


@dataclass
class Pasted:
    """Lines that repeat some calls, and the files that they name.

    Args:
        url: of the server, as the visitor reaches it.
        keyed: whether it wants a key.
    """

    url: str
    keyed: bool
    calls: Sequence[Asked]
    files: dict[str, bytes] = field(default_factory=dict)

    def curl(self) -> str:
        return "\n\n".join(self._curl(call) for call in self.calls)

    def _curl(self, call: Asked) -> str:
        request = call.request
        query = f"?{urlencode(request.params)}" if request.params else ""
        parts = [f"curl -s {shlex.quote(self.url + request.path + query)}"]
        if request.method not in ("GET", "POST"):
            parts[0] += f" -X {request.method}"
        if self.keyed:
            parts.append(f'-H "authorization: Bearer ${KEY}"')
        body = request.body
        for name, (file, content) in body.get("files", {}).items():
            parts.append("-F " + shlex.quote(f"{name}=@{self._keep(file, content)}"))
        parts += ["--form-string " + shlex.quote(f"{name}={text}") for name, text in body.get("data", {}).items()]
        if "content" in body:
            parts.append("-H " + shlex.quote(f"content-type: {body['headers']['content-type']}"))
            text = body["content"].decode()
            named = len(text) > INLINE
            parts.append(f"--data-binary @{self._keep('item.json', text.encode())}" if named else _data(text))
        return " \\\n  ".join(parts)

    def python(self) -> str:
        lines = [f"    print(client.{c.method}({', '.join(self._arguments(c))}))" for c in self.calls]
        written = "\n".join(lines)
        modules = {"json": "json.", "os": "os.", "Path": "Path(", "np": "np."}
        key = f', api_key=os.environ["{KEY}"]' if self.keyed else ""
        text = f"with Client({self.url!r}{key}) as client:\n{written}\n"
        used = {name for name, sign in modules.items() if sign in text}
        plain = "".join(f"import {name}\n" for name in ("json", "os") if name in used)
        plain += "from pathlib import Path\n" if "Path" in used else ""
        third = "import numpy as np\n\n" if "np" in used else ""
        return f"{plain}{chr(10) if plain else ''}{third}from serving.client import Client\n\n{text}"

    def _arguments(self, call: Asked) -> list[str]:
        named = [f"{name}={self._source(value)}" for name, value in call.options.items() if value is not None]
        return [self._source(value) for value in call.arguments] + named

    def _source(self, value: Any) -> str:
        """An expression that gives the value, of files if it is long."""
        if isinstance(value, Path):
            return f"Path({self._keep(value.name, value.read_bytes())!r})"
        if isinstance(value, Mapping):
            if value and all(isinstance(one, np.ndarray) for one in value.values()):
                (file, content) = Client.predict("x", value).body["files"]["file"]
                return f"dict(np.load({self._keep(file, content)!r}))"
            if any(isinstance(one, Path) for one in value.values()):
                return "{" + ", ".join(f"{name!r}: {self._source(one)}" for name, one in value.items()) + "}"
        if isinstance(value, Mapping | list) and len(json.dumps(value)) > INLINE:
            content = json.dumps(value, separators=(",", ":")).encode()
            return f"json.loads(Path({self._keep('item.json', content)!r}).read_bytes())"
        return repr(value)

    def _keep(self, name: str, content: bytes) -> str:
        """The name under which the file can be had: another one, if that is taken."""
        number = 1
        found = name
        while self.files.setdefault(found, content) != content:
            number += 1
            found = f"{number}-{name}"
        return found


def _data(text: str) -> str:
    """JSON as an argument, in which a shell changes nothing."""
    return f"-d {shlex.quote(text)}"
