"""The files of an evaluation: predictions, results.json, report.json. Somebody else's are not overwritten."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zofo.config.sections import data_suffix
from zofo.data.formats import Head, rows_of
from zofo.data.rows_out import as_file
from zofo.data.tokenization import Encoded
from zofo.errors import InputError
from zofo.eval.likelihood import Evaluation, as_rows
from zofo.train.files import make_directory, write_bytes, write_json

# Keys that zofo's own have
KEYS = {
    "predictions.jsonl": {"id", "prompt", "answers", "loss"},
    "results.json": {"model", "task", "split", "seed"},
}
FILES = "(.jsonl, .json, .csv, .tsv, .parquet)"
COMPLETION = {"prompt", "completion"}  # of a line that `zofo generate` writes


def check_output(output: Path) -> None:
    """Before an evaluation. Raises InputError where a file is in the way that no evaluation wrote."""
    alone = _is_alone(output)
    if not alone and output.exists() and not output.is_dir():
        raise InputError(f"{output}: is a file; give a directory, or a file {FILES} for the predictions alone")
    paths = {output: KEYS["predictions.jsonl"]} if alone else {output / name: keys for name, keys in KEYS.items()}
    for path, keys in paths.items():
        check_own(path, keys, "evaluation")
    if not alone and (output / "report.json").exists() and not (output / "results.json").exists():
        raise InputError(f"{output / 'report.json'}: {_THERE.format('evaluation')}")


def _is_alone(output: Path) -> bool:
    """Whether an output's name is that of a file of rows. A directory of such a name that is there is one."""
    return data_suffix(output) is not None and not output.is_dir()


_THERE = "is there already, and no {} of zofo wrote it; choose another --output"


def check_own(path: Path, keys: set[str], what: str) -> None:
    """Raises InputError for what is there, is not empty, and is not one of zofo's, which has these keys."""
    if path.is_dir() or (path.is_file() and path.stat().st_size and not is_own(path, keys)):
        raise InputError(f"{path}: {_THERE.format(what)}")


def is_own(path: Path, keys: set[str]) -> bool:
    """Whether a JSON object, or the first row of a file of rows, has these keys."""
    try:
        if data_suffix(path) == ".jsonl":
            with path.open(encoding="utf-8") as file:
                text = file.readline()
            if not text.endswith("\n") and any(text.startswith(f'{{"{key}": ') for key in keys):
                return True  # its first line, which a full disk cut
            content = json.loads(text)
        elif data_suffix(path) == ".json":
            content = json.loads(path.read_text("utf-8"))
            content = content[0] if isinstance(content, list) and content else content
        else:
            ((_, content),) = rows_of(path, Head(rows=1))
    except (OSError, ValueError, RecursionError, InputError):
        return False
    return isinstance(content, dict) and keys <= set(content)


def write_files(output: Path, evaluation: Evaluation, encoded: Sequence[Encoded], facts: Mapping[str, Any]) -> None:
    """predictions.jsonl, results.json and, of a classification, report.json in a directory; or the predictions alone,
    in a file of any kind of rows."""
    alone = _is_alone(output)
    directory = output.parent if alone else output
    make_directory(directory)
    path = output if alone else directory / "predictions.jsonl"
    write_bytes(path, as_file(path, as_rows(evaluation, encoded)))
    if not alone:
        for name, content in {"results": {**facts, **evaluation.values}, "report": evaluation.report}.items():
            if content is not None:
                write_json(directory / f"{name}.json", content)
