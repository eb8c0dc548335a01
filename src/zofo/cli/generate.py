"""`zofo generate`: prompts from the command line, a file or the standard input; completions as they are written."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from zofo.errors import InputError


def read_prompts(texts: Sequence[str], file: str | None) -> list[tuple[Any, str]]:
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


def _lines(text: str, name: str) -> list[tuple[Any, str]]:
    """One prompt a line; blank lines are none."""
    found = [(line, f"{name}:{i}") for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not found:
        raise InputError(f"{name}: no prompts, expected one a line")
    return found


def _from_rows(path: Path) -> list[tuple[Any, str]]:
    from zofo.data.files import columns_of, read_file

    records = read_file(path)
    column = next((name for name in ("prompt", "messages") if name in records[0].row), None)
    if column is None:
        raise InputError(f"{path}: needs a column prompt or messages; has: {', '.join(columns_of(records))}")
    kind = str if column == "prompt" else list
    for record in records:
        if not isinstance(record.row.get(column), kind):
            wanted = "a text" if kind is str else "a list of turns with role and content"
            raise InputError(f"{record.place}: {column} must be {wanted}")
    return [(record.row[column], record.place) for record in records]


def unescaped(text: str) -> str:
    r"""\n and \t as a shell passes them, typed out."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


def run(target: str, texts: Sequence[str], file: str | None, output: str | None, **options: Any) -> None:
    """Write completions as they are done: plain text on a terminal, JSON lines elsewhere and in `output`."""
    prompts = read_prompts(texts, file)
    from zofo.api.generate import Prompt, generate

    options["stop"] = [unescaped(text) for text in options["stop"]]
    place = Path(output) if output is not None else None
    sink: TextIO | None = None

    def done(number: int, text: str) -> None:
        nonlocal sink
        if place is None and sys.stdout.isatty():
            print(*([f"--- {prompts[number][1]}"] if len(prompts) > 1 else []), text, sep="\n", flush=True)
            return
        if place is not None and sink is None:  # not before the first completion: a refused prompt writes no file
            place.parent.mkdir(parents=True, exist_ok=True)
            sink = place.open("w", encoding="utf-8")
        print(json.dumps({"prompt": prompts[number][0], "completion": text}), file=sink or sys.stdout, flush=True)

    try:
        generate(target, [Prompt(*prompt) for prompt in prompts], done=done, **options)
    finally:
        if sink is not None:
            sink.close()
