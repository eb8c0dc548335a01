"""`zofo predict`: rows without an answer, from a file or the command line; answers beside them."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from zofo.cli.options import ADAPTER_OF, BaseModel, option
from zofo.cli.process import libraries, rank
from zofo.config.json_text import dumps
from zofo.errors import InputError, printable


def predict(
    target: Annotated[str, typer.Argument(help="A run, a checkpoint of one, an export, a PEFT directory, or a model.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[task.key=value] [model.key=value]...", help="Other changes (zofo show task, model)."),
    ] = None,
    file: Annotated[str | None, option("Rows without an answer: .csv, .tsv, .jsonl, .json or .parquet.")] = None,
    output: Annotated[str | None, option("The rows with their answers: a file of the same kind.")] = None,
    text: Annotated[list[str] | None, option("A text, in place of a file; may be given several times.")] = None,
    text_column: Annotated[str | None, option("The file's column with the text, where it has another name.")] = None,
    prefix: Annotated[str, option("Before the names of the new columns.")] = "",
    task: Annotated[str | None, option("Task or labelled file, where it is not the run's or the export's.")] = None,
    adapter: Annotated[str | None, ADAPTER_OF] = None,
    model: BaseModel = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens of a text, at most.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows at once; 32, or the run's.")] = None,
    seed: Annotated[int | None, option("Seed of texts that are sampled; 0, or the run's.")] = None,
    overwrite: Annotated[bool, option("Replace the output, and begin anew.", "--overwrite")] = False,
) -> None:
    """Answer rows that have no label: a prediction and each label's probability, or a text.

    The rows keep their order and columns. A command that was stopped goes on where it was when it is given again.
    """
    given: dict[str, Any] = {"task": task, "adapter": adapter, "model": model, "overrides": settings or []}
    given |= {"max_new_tokens": max_new_tokens, "batch_size": batch_size, "seed": seed}
    if text:
        if file is not None or output is not None or text_column is not None or prefix or overwrite:
            raise InputError("--text: prints the answers; leave out --file and what belongs to it")
        with libraries():
            from zofo.api.predict import predict as answer

        for line, row in zip(text, answer(target, text, **given)):
            _print(line, row)
        return
    if file is None or output is None:
        raise InputError("give --file FILE and --output FILE, or --text TEXT")
    with libraries():
        from zofo.api.predict_file import predict_file

    given |= {"text_column": text_column, "prefix": prefix, "overwrite": overwrite}
    summary = predict_file(target, file, output, **given)
    if rank():  # of several processes one says it
        return
    if not sys.stdout.isatty():
        print(dumps(summary))
        return
    counts = ", ".join(f"{name} {count}" for name, count in summary.get("predictions", {}).items())
    print(printable(f"{summary['rows']} rows answered{': ' if counts else ''}{counts}; saved in {summary['output']}"))


def _print(text: str, row: dict[str, Any]) -> None:
    """A line for each text: for a person on a terminal, JSON elsewhere."""
    if not sys.stdout.isatty():
        print(dumps({"input": text, **row}, ensure_ascii=False), flush=True)
    elif "text" in row:
        print(printable(row["text"], plain="\n\t"), flush=True)
    else:
        chances = sorted(row["probability"].items(), key=lambda item: -item[1])
        shown = ", ".join(f"{label} {chance:.3f}" for label, chance in chances)
        print(printable(f"{row['prediction']}  ({shown})  {text}"), flush=True)
