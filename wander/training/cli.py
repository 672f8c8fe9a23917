"""`wander train` and `wander evaluate`. What is heavy is imported when a command runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from wander.console import print_fields, print_json, print_table, progress, stdout

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Data = Annotated[Path, typer.Option("--data", help="The data set's folder, such as ../shared/data/mosi.")]

NAMES = {
    "accuracy": "Accuracy",
    "acc2": "ACC-2",
    "f1": "F1",
    "acc7": "ACC-7",
    "mae": "MAE",
    "corr": "Corr",
    "r1": "R@1",
    "r5": "R@5",
    "r10": "R@10",
    "mdr": "MdR",
    "mnr": "MnR",
}
"""Metrics as the papers write them."""


def train(
    task: Annotated[
        str, typer.Argument(help="The recipe, by the name of its task: sentiment, food, image-text, text-video.")
    ],
    data: Data,
    out: Annotated[Path, typer.Option(help="New folder for adapter/ and backbone/.")],
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal weights.")] = 0,
    head_only: Annotated[bool, typer.Option("--head-only", help="The baseline: only a head, no adapter.")] = False,
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Change a setting of the recipe, such as adapter.epochs=5."),
    ] = None,
    json: Json = False,
) -> None:
    """Train an adapter by its paper's recipe: selection on the validation split, the test split stays unopened."""
    from pydantic import ValidationError

    from wander.checkpoints.folder import save, write_json
    from wander.errors import UsageError
    from wander.manifest import first_problem
    from wander.training.recipes import recipes

    if task.replace("-", "_") not in recipes.names():
        raise UsageError(f"there is no recipe for {task!r}; there is one for: {', '.join(recipes.names())}")
    recipe = recipes.get(task)()
    if out.exists():
        raise UsageError(f"{out} exists already; name a folder that does not, or remove it")
    try:
        settings = recipe.Settings.model_validate(parsed(options or []))
    except ValidationError as error:
        raise UsageError(f"--set {first_problem(error)}") from error
    with progress() as display:
        bars: dict[str, Any] = {}

        def notify(stage: str, epoch: int, epochs: int, loss: float) -> None:
            bar = bars.setdefault(stage, None)
            if bar is None:
                bar = bars[stage] = display.add_task(stage, total=epochs)
            display.update(bar, completed=epoch, description=f"{stage}: validation loss {loss:.3f}")

        trained = recipe.train(data, settings, seed=seed, head_only=head_only, notify=notify)
    command = " ".join(
        ["wander", "train", task, "--data", portable(data), "--out", portable(out), "--seed", str(seed)]
        + ["--head-only"] * head_only
        + [part for option in options or [] for part in ("--set", option)]
    )
    about = trained.about.model_copy(update={"provenance": {**trained.about.provenance, "command": command}})
    save(trained.host, trained.head, about, out, trained.backbone_id, trained.assets)
    write_json(out / "example.json", trained.example)
    report = {"out": str(out), "task": task, "seed": seed, "valid": about.provenance["valid"]}
    if json:
        print_json(report)
        return
    print_table(*metrics_table("valid", about.provenance["valid"]))
    stdout.print(f"wrote {out}", markup=False)


def evaluate(
    path: Annotated[Path, typer.Argument(help="A folder with adapter/ and backbone/, or a bundle.")],
    data: Data,
    split: Annotated[str, typer.Option(help="Part of the data set.")] = "test",
    engine: Annotated[
        str | None, typer.Option(help="What runs a bundle (default ort); a checkpoint runs in torch.")
    ] = None,
    json: Json = False,
) -> None:
    """The papers' metrics of a checkpoint or a bundle on a labelled data set."""
    from wander.training.evaluation import evaluate as run

    found = run(path, data, split, engine)
    about = {"path": str(path), "task": found.task, "engine": found.engine, "data": data.name, "split": split}
    if json:
        print_json({**about, "n": found.n, "rows": found.rows, "metrics": found.metrics})
        return
    if len(found.rows) > 1:
        about |= {name: f"{rows} items" for name, rows in found.rows.items()}
    print_fields(about)
    metrics = found.metrics if len(found.rows) > 1 else {**found.metrics, "N": found.n}
    print_table(*metrics_table(split, metrics))


def metrics_table(row: str, metrics: Mapping[str, Any]) -> tuple[Sequence[str], list[list[object]]]:
    """Columns and rows of a table of metrics: one row, or one each `<which>` where names are `<which>.<measure>`."""
    table: dict[str, dict[str, object]] = {}
    for name, value in metrics.items():
        which, _, measure = name.rpartition(".")
        title = f"{row}, {which.replace('_', ' ')}" if which else row
        table.setdefault(title, {})[measure] = "undefined" if value is None else value
    columns = list(dict.fromkeys(measure for cells in table.values() for measure in cells))
    lines = [[title, *(cells.get(measure, "") for measure in columns)] for title, cells in table.items()]
    return ["", *(NAMES.get(name, name) for name in columns)], lines


def parsed(options: Sequence[str]) -> dict[str, Any]:
    """`["length=5", "host.epochs=2"]` to `{"length": 5, "host": {"epochs": 2}}`; values are JSON, or else text.

    Raises UsageError for an option without `=`.
    """
    import json

    from wander.errors import UsageError

    settings: dict[str, Any] = {}
    for option in options:
        name, separator, text = option.partition("=")
        if not separator:
            raise UsageError(f"--set takes NAME=VALUE, not {option!r}")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        *groups, last = name.split(".")
        place = settings
        for group in groups:
            place = place.setdefault(group, {})
            if not isinstance(place, dict):
                raise UsageError(f"--set {name}: {group} was set to a value before")
        place[last] = value
    return settings


def portable(path: Path) -> str:
    """A path as it may stand in a file that ships: relative as it was given, or else the name alone."""
    return path.name if path.is_absolute() else path.as_posix()
