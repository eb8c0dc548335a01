"""`zofo data meta`: the rows of a task as meta-training reads them, and what was written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from zofo.cli.options import Data, group, option

LISTED = 6  # options of a class set that are printed

app = group("Convert data.")


@app.command()
def meta(
    tasks: Annotated[
        list[str], typer.Argument(metavar="TASK...", help="Tasks (zofo ls tasks), task .yaml files, or own files.")
    ],
    output_dir: Annotated[str, option("Where to write <task>/{train,validation,test}.jsonl.")],
    data: Data = None,
    template: Annotated[
        str | None, option("The task's template; plain if left out, or default where plain leaves out a column.")
    ] = None,
    train_examples: Annotated[int | None, typer.Option(min=0, help="So many rows at most; all if left out.")] = None,
    validation_examples: Annotated[int | None, typer.Option(min=0, help="The same, of the validation rows.")] = None,
    test_examples: Annotated[int | None, typer.Option(min=0, help="The same, of the test rows.")] = None,
    seed: Annotated[int, option("Seed of these samples.")] = 0,
    max_answer: Annotated[
        int | None, typer.Option(min=1, help="Leave out rows with an answer of more characters.")
    ] = None,
    overwrite: Annotated[bool, option("Replace tasks that are there.", "--overwrite")] = False,
) -> None:
    """Rows of tasks as meta-training reads them (docs/meta_data.md).

    With several tasks --data holds a directory for each, by the task's name.
    """
    from zofo.api import convert

    limits = {"train": train_examples, "dev": validation_examples, "test": test_examples}
    for done in convert.convert(tasks, output_dir, data, template, limits, seed, overwrite, max_answer):
        for file in done.files:
            left = "".join(f"; {n} left out: {why} (first: {place})" for why, (n, place) in file.left_out.items())
            rows = f"{len(file.rows)} row{'s' * (len(file.rows) != 1)}"
            typer.echo(f"{file.path}: {rows}, {summary(file.rows)}, template {done.template}{left}")
        for note in done.notes:
            typer.echo(f"note: {done.name}: {note}", err=True)


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """`options: negative | positive`, `4 options of its own each`, `free text`."""
    sets = {tuple(row["options"]) for row in rows}
    sizes = sorted({len(options) for options in sets})
    if sizes == [0]:
        return "free text"
    if len(sets) == 1:
        options = next(iter(sets))
        return f"options: {' | '.join(options)}" if len(options) <= LISTED else f"one set of {len(options)} options"
    between = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else str(sizes[0])
    return f"{between} options of its own each"
