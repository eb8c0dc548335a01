"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from zofo.config.sections import SPLIT_FIELDS


def option(help: str, *names: str) -> Any:
    return typer.Option(*names, help=help)


def group(help: str) -> typer.Typer:
    """A verb of verbs, which without one of them says what they are."""
    app = typer.Typer(rich_markup_mode=None, help=help)

    @app.callback(invoke_without_command=True)
    def listing(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            typer.echo(context.get_help())

    return app


Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONFIG.yaml] [section.key=value]...", help="A YAML file, then changes to it."),
]
Model = Annotated[str | None, option("Hub id or directory of a causal LM.")]
Task = Annotated[
    str | None, option("A task (zofo ls tasks), a file or directory of rows (.jsonl, ...), or a task .yaml.")
]
Data = Annotated[str | None, option("Directory or file with the task's rows, in place of the hub's.")]
TrainFile = Annotated[str | None, option("Rows to train on; dev and test are cut from it without files of their own.")]
DevFile = Annotated[str | None, option("Rows that select the checkpoint.")]
TestFile = Annotated[str | None, option("Rows of the reported numbers.")]
TextColumn = Annotated[str | None, option("The column of own rows that is read as text.")]
LabelColumn = Annotated[str | None, option("The column of own rows that is read as label.")]
Adapter = Annotated[str | None, option("An adapter (zofo ls adapters).")]
Preset = Annotated[str | None, option("Start from a preset (zofo ls presets).")]
BaseModel = Annotated[str | None, option("Where the base model is now, if it has moved.")]
ADAPTER_OF = option("Which of the run's: p, s, or theta for none; the deployed one if left out.")


def with_rows(
    settings: list[str] | None,
    data: str | None,
    files: Sequence[str | None] = (),
    columns: Sequence[str | None] = (),
) -> list[str]:
    """--data DIR is task.data=DIR. files: of train, dev, test. columns: of text and label."""
    names = ("data", *SPLIT_FIELDS.values(), "text_column", "label_column")
    given = zip(names, (data, *(files or [None] * 3), *(columns or [None] * 2)))
    return [*(settings or []), *(f"task.{name}={value}" for name, value in given if value is not None)]
