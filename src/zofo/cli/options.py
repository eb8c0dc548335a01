"""Options that several verbs share."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def option(help: str, *names: str) -> Any:
    return typer.Option(*names, help=help)


Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONFIG.yaml] [section.key=value]...", help="A YAML file, then changes to it."),
]
Model = Annotated[str | None, option("Hub id or directory of a causal LM.")]
Task = Annotated[
    str | None, option("A task (zofo ls tasks), a file or directory of rows (.jsonl, ...), or a task .yaml.")
]
Data = Annotated[str | None, option("Directory or file with the task's rows, in place of the hub's.")]
Adapter = Annotated[str | None, option("An adapter (zofo ls adapters).")]
Preset = Annotated[str | None, option("Start from a preset (zofo ls presets).")]
BaseModel = Annotated[str | None, option("Where the base model is now, if it has moved.")]
ADAPTER_OF = option("Which of the run's: p, s, or theta for none; the deployed one if left out.")


def with_data(settings: list[str] | None, data: str | None) -> list[str]:
    """--data DIR is task.data=DIR."""
    return [*(settings or []), *([f"task.data={data}"] if data is not None else [])]
