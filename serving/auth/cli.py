"""`wander keys`: makes keys for a server, so that nobody has to invent one."""

from __future__ import annotations

import json as codec
from typing import Annotated, Any

import typer

from wander.console import print_json, stdout

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Make keys for a server.")


@app.callback()
def keys() -> None:
    """Keys stand in a JSON file, a list of entries; `wander serve --keys FILE` reads it."""


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Whose key it is; stands in logs, where the key never does.")],
    role: Annotated[list[str], typer.Option(help="infer, index-write or admin; may be given several times.")],
    rate: Annotated[float | None, typer.Option(help="Requests a second, on the average; default: no limit.")] = None,
    burst: Annotated[int | None, typer.Option(help="Requests at once; default: those of one second.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Make a key. It is shown once; the entry for the server's file holds only its sha256."""
    import hashlib
    import secrets

    from pydantic import ValidationError

    from serving.auth.keys import Entry
    from wander.errors import UsageError
    from wander.manifest import first_problem

    key = f"wander_{secrets.token_urlsafe(32)}"
    fields: dict[str, Any] = {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), "roles": role}
    fields |= {"rate": rate, "burst": burst}
    try:
        entry = Entry(**fields).model_dump(mode="json", exclude_none=True)
    except ValidationError as error:
        raise UsageError(first_problem(error)) from None
    if json:
        print_json({"key": key, "entry": entry})
        return
    stdout.print(f"key, for {name}:\n  {key}", markup=False)
    stdout.print(f"entry, for the list in the file of --keys:\n  {codec.dumps(entry)}", markup=False)
