"""The `wander` command: mounts what the rooms registered under `wander.commands`, and loads a room when it is called.

Exit codes: 0 done, 1 the check failed or something is wrong with the data, 2 the command was called wrongly.
"""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from typer.core import TyperGroup

from wander import __version__
from wander.errors import UsageError, WanderError

COMMANDS = "wander.commands"
EXTRAS = {
    **dict.fromkeys(("torch", "onnx", "onnxscript", "onnx_ir", "safetensors", "transformers"), "export"),
    "ray": "ray",
    "gradio": "demo",
    **dict.fromkeys(("onnxruntime", "fastapi", "uvicorn", "orjson", "pydantic_settings", "httpx"), "serve"),
}
"""Packages that a room needs, and the extra that brings them."""


class LazyGroup(TyperGroup):
    """Lists commands by their entry points; imports the room of a command only when that command is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(entry_points(group=COMMANDS).names)

    def get_command(self, ctx: Any, name: str) -> Any:
        found = entry_points(group=COMMANDS, name=name)
        return load(next(iter(found))) if found else None


def load(entry: EntryPoint) -> Any:
    """The command behind an entry point: a function, or a `typer.Typer` with commands of its own."""
    target = entry.load()
    app = target if isinstance(target, typer.Typer) else typer.Typer(add_completion=False)
    if app is not target:
        app.command(name=entry.name)(target)
    command = typer.main.get_command(app)
    command.name = entry.name
    return command


app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    no_args_is_help=True,
    help="Serve adapted multimodal models: from a trained checkpoint to a verified bundle and a server.",
)


@app.callback(invoke_without_command=True)
def root(
    version: bool = typer.Option(False, "--version", help="Print the version."),
    debug: bool = typer.Option(False, "--debug", help="Show a traceback for an error (also after the command's name)."),
) -> None:
    if version:
        typer.echo(__version__)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits. Errors raised on purpose become one line on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    try:
        code = app([argument for argument in arguments if argument != "--debug"], standalone_mode=True)
    except WanderError as error:
        if debug:
            raise
        typer.echo(f"error: {error}", err=True)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if debug or extra is None:
            raise
        typer.echo(f"error: {error.name} is not installed; run: pip install 'wander[{extra}]'", err=True)
        sys.exit(1)
    sys.exit(code)


if __name__ == "__main__":
    main()
