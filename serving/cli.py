"""`wander serve` and `wander predict`. What is heavy is imported when a command runs."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from wander.console import print_json, progress, stderr, stdout

if TYPE_CHECKING:
    from serving.settings import Settings
    from wander.bundle import Bundle

S = TypeVar("S", bound="Settings")

CHUNK = 1024
"""Items of `predict --jsonl` that are computed together."""


def serve(**given: Any) -> None:
    """Serve every bundle in a folder over HTTP."""
    from serving.server import run
    from serving.settings import Settings

    settings = settings_of(Settings, given)
    if settings.workers == 1:
        run(settings, announce)
        return
    from serving.workers.supervisor import Supervisor

    Supervisor(settings, announce).run()


def settings_of(kind: type[S], given: dict[str, Any]) -> S:
    """What was given, and else the variables of the environment. Raises UsageError for what cannot be."""
    from pydantic import ValidationError

    from wander.errors import UsageError
    from wander.manifest import first_problem

    try:
        return kind(**given)
    except ValidationError as error:
        raise UsageError(first_problem(error)) from error


def options(kind: type[Settings], without: Container[str] = ()) -> list[inspect.Parameter]:
    """Every setting as an option with its variable, and the folder of models as an argument."""
    found = []
    for name, field in kind.model_fields.items():
        if name in without:
            continue
        bounds = {k: getattr(m, k) for m in field.metadata for k in ("ge", "le", "gt") if hasattr(m, k)}
        more: dict[str, Any] = {"help": field.description, "envvar": f"WANDER_{name.upper()}"}
        option = typer.Argument(**more)
        if name != "models":
            option = typer.Option(min=bounds.get("ge", bounds.get("gt")), max=bounds.get("le"), **more)
        annotation = Annotated[field.annotation, option]  # type: ignore[name-defined]
        where = inspect.Parameter.POSITIONAL_OR_KEYWORD
        found.append(inspect.Parameter(name, where, default=field.default, annotation=annotation))
    return found


with suppress(ModuleNotFoundError):  # the command itself will say what is to be installed
    from serving.settings import Settings

    serve.__signature__ = inspect.Signature(options(Settings))  # type: ignore[attr-defined]


def predict(
    bundle: Annotated[Path, typer.Argument(help="A model's folder (its latest version), or one version's folder.")],
    source: Annotated[str, typer.Option("--input", help="An .npz of tensors, or JSON lines; - is stdin.")] = "-",
    target: Annotated[str, typer.Option("--output", help="An .npz of tensors, or JSON lines; - is stdout.")] = "-",
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Items of the task, one JSON object a line.")] = False,
    engine: Annotated[str, typer.Option(help="What runs the graphs.")] = "ort",
    graph: Annotated[str | None, typer.Option(help="Which graph, for tensors of a model with several.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout (tensors only).")] = False,
) -> None:
    """Run a bundle without a server: tensors, or the task's items with --jsonl. Exits 1 if an item fails."""
    from wander.bundle import Bundle
    from wander.errors import UsageError

    opened = Bundle.open(bundle)
    if jsonl:
        if json:
            raise UsageError("--json is for tensors; with --jsonl every line is JSON already")
        failed = _predict_items(opened, engine, source, target)
        if failed:
            stderr.print(f"{failed} items failed; their lines hold an error", markup=False)
            raise typer.Exit(1)
        return
    if "-" in (source, target):
        raise UsageError("tensors go from --input X.npz to --output Y.npz; items go through pipes with --jsonl")
    rows = _predict_tensors(opened, engine, graph, Path(source), Path(target))
    if json:
        print_json({"bundle": str(opened.path), "rows": rows, "output": target})
    else:
        stdout.print(f"{rows} rows to {target}", markup=False)


def _predict_tensors(bundle: Bundle, engine: str, graph: str | None, source: Path, target: Path) -> int:
    """One graph over all rows of an .npz, in batches of the largest size. Returns the number of rows."""
    import numpy as np

    from wander.bundle import EXPECTED
    from wander.engines import EngineOptions, engines
    from wander.errors import InputError, UsageError
    from wander.npz import read_npz_file

    graphs = bundle.manifest.graphs
    if (name := graph or bundle.manifest.main) is None:
        raise UsageError(f"the bundle has several graphs; name one with --graph: {', '.join(graphs)}")
    if name not in graphs:
        raise UsageError(f"there is no graph {name!r} in the bundle; there are: {', '.join(graphs)}")
    try:
        # A bundle's own samples can be given as they are.
        inputs = {key: value for key, value in read_npz_file(source).items() if not key.startswith(EXPECTED)}
    except InputError as error:
        raise UsageError(f"{source} is no .npz of tensors: {error}") from error
    rows, size = graphs[name].signature.check(inputs), graphs[name].max_batch_size
    options = EngineOptions.of(bundle.manifest, name)
    with (
        engines.get(engine).open(bundle.graph_path(name), graphs[name].signature, options) as session,
        progress() as display,
    ):
        parts = [
            session.run({key: value[i : i + size] for key, value in inputs.items()})
            for i in display.track(range(0, rows, size), description="predict")
        ]
    with _bytes(str(target), "wb") as file:
        np.savez(file, allow_pickle=False, **{key: np.concatenate([part[key] for part in parts]) for key in parts[0]})
    return rows


def _predict_items(bundle: Bundle, engine: str, source: str, target: str) -> int:
    """The task's items through the served path, in order. Returns how many failed."""
    import asyncio
    import itertools

    import orjson

    from serving.answers import Answer
    from serving.metrics import Metrics
    from serving.protocols._bodies import Body, decode_files
    from serving.protocols.base import problem
    from serving.repository import Repository
    from serving.service import Service, Target
    from serving.settings import Settings
    from wander.errors import InputError, ServiceError

    settings = Settings(keys=None, engine=engine, timeout_ms=3_600_000, max_items=CHUNK, max_queue_rows=CHUNK)
    metrics = Metrics()
    service = Service(Repository(settings, metrics), settings, metrics)
    service.repository.load([bundle])

    task = service.resolve(Target(bundle.manifest.task)).task
    target_of = Target(bundle.manifest.task, next(iter(task.operations)))

    def item(line: bytes) -> Any:
        parsed = _item(line, orjson.loads, orjson.JSONDecodeError)
        try:
            if isinstance(parsed, dict):
                decode_files(Body(parsed), task.uploads, task.files())
        except InputError as error:
            return error
        return parsed

    async def answer(lines: list[bytes]) -> list[Answer | ServiceError]:
        parsed = [item(line) for line in lines]
        good = [item for item in parsed if not isinstance(item, InputError)]
        answers = iter(await service.predict_many(target_of, good))
        return [item if isinstance(item, InputError) else next(answers) for item in parsed]

    failed = 0
    with _bytes(source, "rb") as read, _bytes(target, "wb") as write, progress() as display, asyncio.Runner() as runner:
        bar = display.add_task("predict", total=None)
        lines = (line for line in read if line.strip())
        while chunk := list(itertools.islice(lines, CHUNK)):
            for result in runner.run(answer(chunk)):
                failed += not isinstance(result, Answer)
                body = result.to_json() if isinstance(result, Answer) else {"error": problem(result)}
                write.write(orjson.dumps(body, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY))
            display.advance(bar, len(chunk))
    service.close()
    return failed


def _item(line: bytes, loads: Any, broken: type[Exception]) -> Any:
    """An item, or the InputError that its line deserves."""
    from wander.errors import InputError, MalformedBody

    try:
        item = loads(line)
    except broken as error:
        return MalformedBody(f"the line is not JSON: {error}")
    return item if isinstance(item, dict) else InputError("an item must be a JSON object")


@contextmanager
def _bytes(path: str, mode: str) -> Iterator[IO[bytes]]:
    """A file, or the standard stream that `-` means."""
    from wander.errors import UsageError

    if path == "-":
        yield sys.stdin.buffer if mode == "rb" else sys.stdout.buffer
        sys.stdout.flush()
        return
    try:
        file = open(path, mode)  # noqa: SIM115  closed below
    except OSError as error:
        raise UsageError(f"{path} cannot be opened: {error.strerror}") from error
    with file:
        yield file


def announce(lines: Sequence[str]) -> None:
    for line in lines:
        stderr.print(line, markup=False, soft_wrap=True)
