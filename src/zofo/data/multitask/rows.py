"""The rows of a setting's task, each checked: JSON lines {task, input, output, options}, in two forms of files.

MetaICL's files are `<task>_<k>_<seed>_<split>.jsonl`, where k counts the rows of train; plain ones are `train.jsonl`,
`validation.jsonl` and `test.jsonl`. Either kind lies in a directory of the task's name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zofo.config.registry import canonical
from zofo.data.files import BadRows, Record, read_file
from zofo.data.tables import split_files
from zofo.errors import InputError, did_you_mean

FORM = re.compile(r"(?P<name>.+)_(?P<k>\d+)_(?P<seed>\d+)_(?P<split>train|dev|test)\.jsonl")
KEYS = ("input", "output", "options")


@dataclass(frozen=True)
class Row:
    """options: () for free-form text, else two or more, `output` among them."""

    id: str  # "ag_news/test/17", from 0
    place: str  # "ag_news/test.jsonl:18"
    input: str
    output: str
    options: tuple[str, ...]

    @property
    def text(self) -> tuple[str, str]:
        """What makes two rows the same."""
        return self.input, self.output


@dataclass(frozen=True)
class File:
    """k, seed: of MetaICL's names."""

    path: Path
    split: str
    k: int = 0
    seed: int | None = None

    def prefix(self, name: str) -> str:
        """The start of its rows' ids: the train and dev rows of each k and seed are others, the test rows are not."""
        suffix = f"-{self.k}-{self.seed}" if self.seed is not None and self.split != "test" else ""
        return f"{name}/{self.split}{suffix}"

    @property
    def shown(self) -> str:
        """For errors: MetaICL's names say the task themselves."""
        return self.path.name if self.seed is not None else f"{self.path.parent.name}/{self.path.name}"


def read_rows(file: File, name: str, bad: BadRows | None = None) -> list[Row]:
    """All rows of one file, each of them checked. Raises InputError naming file and line; see `BadRows`."""
    bad = bad or BadRows()
    with bad.gathered():
        records = read_file(file.path, file.prefix(name), bad, file.shown)
        rows, before = [], bad.counts.total()
        for record in records:
            try:
                rows.append(_row(record, record.place, name))
            except InputError as error:
                bad.refuse(error, record.place)
        bad.check(file.shown, len(records), before)
    return rows


def _row(record: Record, place: str, name: str) -> Row:
    row = record.row
    if missing := [key for key in KEYS if key not in row]:
        near = did_you_mean(missing[0], row)
        raise InputError(
            f'{place}: no "{missing[0]}"; a row has the keys task, input, output and options, this one: '
            f"{', '.join(map(str, row)) or 'none'}{near}"
        )
    task = row.get("task")
    if task is not None and canonical(str(task)) != canonical(name):
        raise InputError(f'{place}: a row of the task "{task}" among those of "{name}"; move it to its own directory')
    for key in ("input", "output"):
        if not isinstance(row[key], str):
            more = "; of several right outputs, keep the one to learn" if isinstance(row[key], list) else ""
            raise InputError(f'{place}: "{key}" must be a text, not {type(row[key]).__name__}{more}')
    if not row["output"].strip():
        raise InputError(f'{place}: "output" is empty; mend or drop the row')
    options = _options(row["options"], place)
    if options and row["output"] not in options:
        near = did_you_mean(row["output"], options)
        raise InputError(f'{place}: the output "{row["output"]}" is none of the options: {", ".join(options)}{near}')
    return Row(record.id, place, row["input"], row["output"], options)


def _options(options: Any, place: str) -> tuple[str, ...]:
    if not isinstance(options, list) or not all(isinstance(option, str) and option.strip() for option in options):
        raise InputError(f'{place}: "options" must be a list of texts, none of them empty ([] for free text)')
    if len(options) == 1:
        raise InputError(f'{place}: one option, "{options[0]}"; give two or more, or [] for free text')
    if len(set(options)) < len(options):
        twice = next(option for option in options if options.count(option) > 1)
        raise InputError(f'{place}: the option "{twice}" occurs twice; options must differ')
    return tuple(options)


def files_of(folder: Path, name: str) -> list[File]:
    named = [(path, FORM.fullmatch(path.name)) for path in sorted(folder.iterdir()) if path.is_file()]
    theirs = [(path, match) for path, match in named if match]
    for path, match in theirs:
        if canonical(match["name"]) != canonical(name):
            raise InputError(
                f"{folder}: {path.name} is a file of the task {match['name']}; move it to its own directory"
            )
    files = [File(path, match["split"], int(match["k"]), int(match["seed"])) for path, match in theirs]
    plain = [File(path, split) for split, path in split_files(folder).items()]
    if files and plain:
        raise InputError(
            f"{folder}: {files[0].path.name} and {plain[0].path.name} are two forms of one task's rows; keep one"
        )
    if not files and not plain:
        raise InputError(
            f"{folder}: no rows of {name}; expected train.jsonl and test.jsonl, or MetaICL's files, such as "
            f"{name}_16384_100_train.jsonl or {name}_16_100_test.jsonl"
        )
    return files or plain
