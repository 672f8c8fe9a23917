"""`wander index`: fills, searches, lists and rebuilds the indexes of a running server."""

from __future__ import annotations

import itertools
import json as codec
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wander.console import print_json, print_table, progress, stderr, stdout
from wander.errors import ConfigError, ServiceError, Unreachable, UsageError

if TYPE_CHECKING:
    from serving.client import Client

AT_ONCE = 4
"""Files that are sent together, so that the server can embed them together."""
PAGE = 1000
POLL_S = 0.2
VIDEOS = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi")
"""Ends of the names of video files; any other is taken for an image."""
LINES = 64
"""Most items of one bulk request."""
LINES_BYTES = 8 << 20
"""Most bytes of one bulk request, unless a single line has more."""

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Fill and search the indexes of a running server.")

Url = Annotated[str, typer.Option("--url", help="Address of the server.", envvar="WANDER_URL")]
Key = Annotated[
    str | None,
    typer.Option(
        "--key", help="Key of the server; in the variable it is in no list of processes.", envvar="WANDER_KEY"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Model = Annotated[str | None, typer.Option(help="Which model embeds; default: that of the index.")]
Name = Annotated[str, typer.Argument(help="Name of the index.")]
HERE = "http://127.0.0.1:8000"


@app.command()
def add(
    index: Name,
    files: Annotated[
        list[Path] | None, typer.Argument(help="Image or video files; their names become the ids.")
    ] = None,
    jsonl: Annotated[
        Path | None, typer.Option(help="Items, one JSON object a line: id, image, text or video, metadata.")
    ] = None,
    url: Url = HERE,
    key: Key = None,
    model: Model = None,
    json: Json = False,
) -> None:
    """Add items to an index, which is made by the first. Exits 1 if one is refused."""
    files = files or []
    if not files and jsonl is None:
        raise UsageError("name image or video files, or a file of items with --jsonl")
    names = [file.name for file in files]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"several files are called {twice}, and their names become the ids; use --jsonl")
    if absent := next((path for path in [*files, *([jsonl] if jsonl else [])] if not path.is_file()), None):
        raise UsageError(f"{absent} is no file")
    failed: list[dict[str, str]] = []
    added = 0
    with _client(url, key) as client, progress() as display:
        bar = display.add_task(f"add to {index}", total=None if jsonl else len(files))
        put = itertools.chain(_put_files(client, index, files, model), _put_lines(client, index, jsonl, model))
        for name, problem in put:
            display.advance(bar)
            if problem is None:
                added += 1
            else:
                failed.append({"item": name, "error": problem})
                stderr.print(f"{name}: {problem}", markup=False, soft_wrap=True)
    if json:
        print_json({"index": index, "added": added, "failed": failed})
    else:
        stdout.print(f"{added} items added to {index}", markup=False)
    if failed:
        raise typer.Exit(1)


@app.command()
def search(
    index: Name,
    words: Annotated[str | None, typer.Argument(help="What to look for.")] = None,
    image: Annotated[Path | None, typer.Option(help="Image file to look for.")] = None,
    video: Annotated[Path | None, typer.Option(help="Video file to look for.")] = None,
    top_k: Annotated[int, typer.Option(help="Most hits.", min=1, max=1000)] = 10,
    modality: Annotated[str | None, typer.Option(help="Only items of this modality: image, text, video.")] = None,
    where: Annotated[list[str] | None, typer.Option("--filter", help="FIELD=VALUE of the metadata.")] = None,
    url: Url = HERE,
    key: Key = None,
    model: Model = None,
    json: Json = False,
) -> None:
    """Find items by words, an image or a video."""
    item = {n: v for n, v in (("text", words), ("image", image), ("video", video)) if v is not None}
    if len(item) != 1:
        raise UsageError("give either words, --image FILE or --video FILE")
    if absent := next((v for v in item.values() if isinstance(v, Path) and not v.is_file()), None):
        raise UsageError(f"{absent} is no file")
    fields = dict(_field(text) for text in where or ())
    with _client(url, key) as client:
        found = client.search(index, item, top_k=top_k, filter=fields, modality=modality, model=model)
    if json:
        print_json(found)
    else:
        rows = [(hit["score"], hit["id"], hit["modality"], _shown(hit["metadata"])) for hit in found["hits"]]
        print_table(("score", "id", "modality", "metadata"), rows)


@app.command("list")
def list_(
    index: Annotated[str | None, typer.Argument(help="Name of an index; without it, all indexes are listed.")] = None,
    url: Url = HERE,
    key: Key = None,
    json: Json = False,
) -> None:
    """List the indexes, or the items of one."""
    columns: tuple[str, ...]
    with _client(url, key) as client:
        if index is None:
            found = client.indexes()
            columns = ("index", "items", "dimension", "mode", "model", "version")
            # An index that cannot be read says why instead.
            rows = [[one.get(c, one["error"]["detail"] if "error" in one else "") for c in columns] for one in found]
        else:
            found = list(_items(client, index))
            columns = ("id", "modality", "metadata")
            rows = [[one["id"], one["modality"], _shown(one["metadata"])] for one in found]
    if json:
        print_json({"indexes": found} if index is None else {"index": index, "items": found})
    else:
        print_table(columns, rows)


@app.command()
def rebuild(
    index: Name,
    wait: Annotated[bool, typer.Option(help="Wait for the end.")] = True,
    url: Url = HERE,
    key: Key = None,
    json: Json = False,
) -> None:
    """Make the files of an index small and its search fast anew; it is searched and written meanwhile.

    Exits 1 if it fails: then the index goes on as it was.
    """
    with _client(url, key) as client, progress() as display:
        found = client.rebuild_index(index)
        bar = display.add_task(f"rebuild {index}", total=1.0)
        while wait and found["rebuild"]["stage"] not in ("done", "failed"):
            state = found["rebuild"]
            display.update(bar, completed=state["share"], description=f"rebuild {index}: {state['stage']}")
            time.sleep(POLL_S)
            found = client.get_index(index)
    failed = found["rebuild"]["stage"] == "failed"
    if json:
        print_json(found)
    elif failed:
        stderr.print(f"error: {index} was not rebuilt: {found['rebuild']['error']}", markup=False, soft_wrap=True)
    else:
        recall = "" if found["recall"] is None else f", recall {found['recall']:.3f} on {found['recall_of']}"
        done = "rebuilt" if wait else "being rebuilt"
        stdout.print(f"{index} is {done}: {found['items']} items, {found['mode']}{recall}", markup=False)
    if failed:
        raise typer.Exit(1)


@contextmanager
def _client(url: str, key: str | None) -> Iterator[Client]:
    """Where no server is, the command was called wrongly."""
    from serving.client import Client

    try:
        with Client(url, api_key=key) as client:
            yield client
    except Unreachable as error:
        raise UsageError(f"{error}; start one with: wander serve MODELS") from error
    except ConfigError as error:
        raise UsageError(str(error)) from error


def _items(client: Client, index: str) -> Iterator[dict[str, Any]]:
    """All of them, by id."""
    after: str | None = ""
    while after is not None:
        page = client.items(index, limit=PAGE, after=after)
        yield from page["items"]
        after = page["next"]


def _put_files(client: Client, index: str, files: list[Path], model: str | None) -> Iterator[tuple[str, str | None]]:
    """Name of every file, and why it was refused, if it was."""

    def put(file: Path) -> tuple[str, str | None]:
        try:
            field = "video" if file.suffix.lower() in VIDEOS else "image"
            client.put_item(index, file.name, {field: file}, model=model)
        except Unreachable:
            raise
        except ServiceError as error:
            return file.name, str(error)
        return file.name, None

    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from pool.map(put, files)


def _put_lines(client: Client, index: str, path: Path | None, model: str | None) -> Iterator[tuple[str, str | None]]:
    """Number of every line, and why it was refused, if it was."""
    if path is None:
        return
    with path.open("rb") as file:
        for lines in chunks(file):
            results = client.put_items(index, [line for _, line in lines], model=model)
            for (number, _), result in zip(lines, results, strict=True):
                yield f"line {number}", str(result) if isinstance(result, ServiceError) else None


def chunks(lines: Iterable[bytes]) -> Iterator[list[tuple[int, bytes]]]:
    """Lines with their numbers from 1, blank ones left out, in groups of which each makes one request."""
    group: list[tuple[int, bytes]] = []
    size = 0
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line:
            continue
        if group and (len(group) == LINES or size + len(line) > LINES_BYTES):
            yield group
            group, size = [], 0
        group.append((number, line))
        size += len(line) + 1
    if group:
        yield group


def _field(text: str) -> tuple[str, Any]:
    """`name=value`; a value that is JSON is what it says, any other is a text."""
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise UsageError(f"--filter takes FIELD=VALUE, not {text!r}")
    try:
        return name, codec.loads(value)
    except ValueError:
        return name, value


def _shown(metadata: dict[str, Any]) -> str:
    return codec.dumps(metadata, ensure_ascii=False) if metadata else ""
