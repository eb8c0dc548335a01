"""`zofo generate`: prompts from the command line, a file or the standard input; completions as they are written."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from zofo.cli.options import ADAPTER_OF, BaseModel, option
from zofo.cli.process import libraries
from zofo.config.json_text import dumps
from zofo.errors import InputError, printable

if TYPE_CHECKING:
    from zofo.data.chat import Turn

    Content = str | Sequence[Turn]


def generate(
    target: Annotated[str, typer.Argument(help="A run, a checkpoint of one, an export, a PEFT directory, or a model.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[model.key=value]...", help="Changes (zofo show model).")
    ] = None,
    prompt: Annotated[list[str] | None, option("A prompt; may be given several times.")] = None,
    file: Annotated[
        str | None, option("Prompts: a text file, one a line, or .jsonl with a column prompt or messages.")
    ] = None,
    max_new_tokens: Annotated[int, option("Tokens of a completion, at most.")] = 50,
    temperature: Annotated[float, option("0: always the likeliest token.")] = 0.0,
    top_p: Annotated[float, option("Sample from the likeliest tokens that hold so much of the probability.")] = 1.0,
    stop: Annotated[list[str] | None, option(r'A text that ends a completion, such as "\n"; several times.')] = None,
    seed: Annotated[int, option("Seed of the sampling.")] = 0,
    chat: Annotated[
        bool, option("Each prompt is a user's turn in the model's chat template.", "--chat", "--apply-chat-template")
    ] = False,
    system: Annotated[
        str | None, option('Text of a system turn before it; the run\'s if left out, "" for none (needs a chat).')
    ] = None,
    adapter: Annotated[str | None, ADAPTER_OF] = None,
    model: BaseModel = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts written at once; the texts are the same.")] = 1,
    output: Annotated[str | None, option("Write the completions to this .jsonl file.")] = None,
) -> None:
    """Continue prompts with a run, an export or a plain model.

    Without --prompt and --file the prompts are the lines of the standard input. Off a terminal each completion is a
    line of JSON, in the order in which they are done.
    """
    run(
        target,
        prompt or [],
        file,
        output,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        stop=stop or [],
        seed=seed,
        chat=chat,
        system=system,
        adapter=adapter,
        model=model,
        overrides=settings or [],
        batch_size=batch_size,
    )


def read_prompts(texts: Sequence[str], file: str | None) -> list[tuple[Content, str]]:
    """(text or list of turns, its place) of each prompt. Raises InputError."""
    if texts and file is not None:
        raise InputError("give --prompt or --file, not both")
    if texts:
        return [(text, f"prompt {i}") for i, text in enumerate(texts, 1)]
    if file is not None:
        path = Path(file)
        return _from_rows(path) if path.suffix in (".jsonl", ".csv", ".parquet") else _lines(_text_of(path), file)
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError("no prompt: give --prompt TEXT, --file FILE, or one prompt a line on the standard input")
    return _lines(sys.stdin.read(), "standard input")


def _text_of(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as e:
        raise InputError(f"{path}: not UTF-8 ({e.reason} in byte {e.start}); save it as UTF-8") from None


def _lines(text: str, name: str) -> list[tuple[Content, str]]:
    """One prompt a line; blank lines are none."""
    prompts: list[tuple[Content, str]] = [
        (line, f"{name}:{i}") for i, line in enumerate(text.splitlines(), 1) if line.strip()
    ]
    if not prompts:
        raise InputError(f"{name}: no prompts, expected one a line")
    return prompts


def _from_rows(path: Path) -> list[tuple[Content, str]]:
    from zofo.data.files import BadRows, columns_of, read_file

    records = read_file(path)
    column = next((name for name in ("prompt", "messages") if name in records[0].row), None)
    if column is None:
        raise InputError(f"{path}: needs a column prompt or messages; has: {', '.join(columns_of(records))}")
    kind, bad = str if column == "prompt" else list, BadRows()
    for record in records:
        if not isinstance(record.row.get(column), kind):
            wanted = "a text" if kind is str else "a list of turns with role and content"
            bad.refuse(InputError(f"{record.place}: {column} must be {wanted}"), record.place)
    bad.check(path.name, len(records), 0)
    return [(record.row[column], record.place) for record in records]


def unescaped(text: str) -> str:
    r"""\n and \t as a shell passes them, typed out."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


def note(text: str) -> None:
    typer.echo(f"note: {text}", err=True)


def run(target: str, texts: Sequence[str], file: str | None, output: str | None, **options: Any) -> None:
    """Write completions as they are done: plain text on a terminal, JSON lines elsewhere and in `output`."""
    from zofo.config.sections import ModelConfig
    from zofo.config.words import check_words

    check_words(options["overrides"], {"model": ModelConfig}, "generate")
    prompts = read_prompts(texts, file)
    with libraries():
        from zofo.api.generate import Prompt
        from zofo.api.generate import generate as complete
    from zofo.api.predictions import COMPLETION, check_own
    from zofo.train.files import make_directory, naming, sync

    options["stop"] = [unescaped(text) for text in options["stop"]]
    place = Path(output) if output is not None else None
    sink: TextIO | None = None
    if place is not None:
        check_own(place, COMPLETION, "generate")

    def done(number: int, text: str) -> None:
        nonlocal sink
        if place is None and sys.stdout.isatty():
            head = [f"--- {prompts[number][1]}"] if len(prompts) > 1 else []
            print(printable("\n".join([*head, text]), plain="\n\t"), flush=True)
            return
        if place is not None and sink is None:  # not before the first completion: a refused prompt writes no file
            make_directory(place.parent)
            sink = place.open("w", encoding="utf-8")
        with naming(place) if place is not None else nullcontext():
            print(dumps({"prompt": prompts[number][0], "completion": text}), file=sink or sys.stdout, flush=True)

    try:
        complete(target, [Prompt(*prompt) for prompt in prompts], done=done, noted=note, **options)
    finally:
        if sink is not None and place is not None:
            with naming(place):  # what could not be written is tried once more
                sink.close()
            if place.is_file():
                sync(place)
                sync(place.parent)
