"""One task's rows for a setting: JSON lines {task, input, output, options}, in MetaICL's files or in plain ones.

MetaICL's files are `<task>_<k>_<seed>_<split>.jsonl`, where k counts the rows of train; plain ones are `train.jsonl`,
`validation.jsonl` and `test.jsonl`. Either kind lies in a directory of the task's name. A file is read when its rows
are asked for, and once.
"""

from __future__ import annotations

import logging
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from zofo.errors import InputError, did_you_mean
from zofo.registry import canonical
from zofo.tasks._files import READERS, SPLIT_FILES, Record, read_file

log = logging.getLogger("zofo")
Kind = Literal["classification", "multiple-choice", "free-form"]
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
class _File:
    """k, seed: of MetaICL's names."""

    path: Path
    split: str
    k: int = 0
    seed: int | None = None

    def prefix(self, name: str) -> str:
        """The start of its rows' ids: the train and dev rows of each k and seed are others, the test rows are not."""
        own = f"-{self.k}-{self.seed}" if self.seed is not None and self.split != "test" else ""
        return f"{name}/{self.split}{own}"

    @property
    def shown(self) -> str:
        """For errors: MetaICL's names say the task themselves."""
        return self.path.name if self.seed is not None else f"{self.path.parent.name}/{self.path.name}"


class Pool:
    """A task's rows, by split. What draws is keyed by the seed and the task's name.

    kind: "classification" where all rows share one set of options; "multiple-choice" where they have their own;
    "free-form" where they have none. labels: of a classification task, in the order of the first train row; every
    row's options are brought to it. Raises InputError naming file, line and fix.
    """

    def __init__(self, name: str, files: Sequence[_File]):
        self.name = name
        self._files = sorted(files, key=lambda f: (("train", "dev", "test").index(f.split), -f.k, f.seed or 0))
        self._read: dict[Path, list[Row]] = {}
        self._kind: Kind | None = None
        self._labels: tuple[str, ...] = ()

    @property
    def kind(self) -> Kind:
        return self._settled()[0]

    @property
    def labels(self) -> tuple[str, ...]:
        return self._settled()[1]

    @property
    def metric(self) -> str:
        return "macro_f1" if self.kind == "classification" else "accuracy"

    def forget(self) -> None:
        """Drop the rows that were read: the files of 40 training tasks are a gigabyte of texts."""
        self._read.clear()

    def train(self, n: int, seed: int) -> list[Row]:
        """At most n train rows, a seeded sample."""
        return self._shuffled(self._train(), f"{seed}/pool/train")[:n]

    def demonstrations(self, k: int, seed: int) -> list[Row]:
        """k different rows: the first of MetaICL's file for this seed, else drawn from the train rows with it."""
        own = [f for f in self._files if f.split == "train" and f.seed == seed and f.k >= k]
        if k and own:
            rows, where = self._rows(own[-1]), own[-1].shown  # sorted by falling k
        else:
            rows = self._shuffled(self._train(), f"{seed}/pool/shown") if k else []
            rows, where = list({row.text: row for row in rows}.values()), f"the train rows of {self.name}"
        if len(rows) < k:
            raise InputError(
                f"task.num_fewshot: {self.name}: {k} demonstrations, and {where} has {len(rows)} different ones; give "
                "a smaller number or more rows"
            )
        return rows[:k]

    def few(self, each: int, seed: int) -> list[Row]:
        """`each` rows of every class, or `each` rows where there are no classes: MetaICL's largest train file of the
        seed, else the train rows in an order drawn with it. A class with fewer rows gives those, with a warning.
        """
        own = [f for f in self._files if f.split == "train" and f.seed == seed]
        rows = self._rows(own[0]) if own else self._shuffled(self._train(), f"{seed}/pool/few")
        if self.kind != "classification":
            if len(rows) < each:
                log.warning("%s: %d rows to tune on, where %d are asked for", self.name, len(rows), each)
            return rows[:each]
        taken: Counter[str] = Counter()
        found = []
        for row in rows:
            if taken[row.output] < each:
                taken[row.output] += 1
                found.append(row)
        if short := [f'"{label}" has {taken[label]}' for label in self.labels if taken[label] < each]:
            log.warning("%s: fewer than %d rows to tune on in some classes: %s", self.name, each, ", ".join(short))
        return found

    def test(self, n: int, seed: int, without: Iterable[Row] = ()) -> list[Row]:
        """At most n rows in a seeded order: of the test file, else of dev, else the train rows that are not `without`.

        MetaICL's test files hold the same rows for every seed, so that of the lowest is taken.
        """
        held = [f for f in self._files if f.split == "test"] or [f for f in self._files if f.split == "dev"]
        rows = self._rows(held[0]) if held else self._train()
        if not held:
            seen = {row.text for row in without}
            rows = [row for row in rows if row.text not in seen]
        return self._shuffled(rows, f"{seed}/pool/test")[:n]

    # ------------------------------------------------------------------------------------------------- files and rows

    def _train(self) -> list[Row]:
        file = self._files[0]
        if file.split != "train":
            raise InputError(
                f"{file.path.parent}: no train rows of {self.name}; expected train.jsonl or "
                f"{self.name}_<k>_<seed>_train.jsonl"
            )
        return self._rows(file)

    def _shuffled(self, rows: Sequence[Row], key: str) -> list[Row]:
        return random.Random(f"{key}/{self.name}").sample(rows, len(rows))

    def _settled(self) -> tuple[Kind, tuple[str, ...]]:
        """(kind, labels), which the first file's rows decide."""
        if self._kind is None:
            self._rows(self._files[0])
        assert self._kind is not None
        return self._kind, self._labels

    def _rows(self, file: _File) -> list[Row]:
        if file.path not in self._read:
            rows = read_rows(file, self.name)
            if file is self._files[0]:
                self._kind, self._labels = _kind_of(rows)
            self._read[file.path] = self._ordered(rows)
        return self._read[file.path]

    def _ordered(self, rows: list[Row]) -> list[Row]:
        """The rows with their options in the labels' order. Raises InputError where one is of another kind."""
        kind, labels = self._settled()
        found = []
        for row in rows:
            same = bool(row.options) == (kind != "free-form")
            if not same or (labels and row.options != labels and set(row.options) != set(labels)):
                expected = ", ".join(labels) if labels else "none" if kind == "free-form" else "two or more"
                raise InputError(
                    f"{row.place}: options {', '.join(row.options) or 'none'}; the rows of {self._files[0].shown} have "
                    f"{expected}; mend the row, or make two tasks of it"
                )
            found.append(replace(row, options=labels) if labels else row)
        return found


def _kind_of(rows: Sequence[Row]) -> tuple[Kind, tuple[str, ...]]:
    """(kind, labels). Raises InputError where some rows have options and some have none."""
    first = rows[0]
    odd = next((row for row in rows if bool(row.options) != bool(first.options)), None)
    if odd is not None:
        has, has_not = (odd, first) if odd.options else (first, odd)
        raise InputError(
            f"{has_not.place}: no options, and {has.place} has some; give all rows of a task options, or none"
        )
    if not first.options:
        return "free-form", ()
    distinct = {frozenset(options) for options in {row.options for row in rows}}
    return ("classification", first.options) if len(distinct) == 1 else ("multiple-choice", ())


def read_rows(file: _File, name: str) -> list[Row]:
    """All rows of one file, each of them checked. Raises InputError naming file and line."""
    try:
        records = read_file(file.path, file.prefix(name))
    except InputError as e:  # which names the file as train.jsonl, and every task has one
        message = str(e)
        if message.startswith(f"{file.path.name}:"):
            message = file.shown + message.removeprefix(file.path.name)
        raise InputError(message) from None
    return [_row(record, f"{file.shown}:{record.place.rpartition(':')[2]}", name) for record in records]


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


# ---------------------------------------------------------------------------------------------------------- folders


def open_pool(directory: Path, name: str) -> Pool:
    """The pool of directory/name/, where - and _ are the same. Nothing is read yet.

    Raises InputError where there is no such directory, or it holds no files of either form, or of both.
    """
    folder = find_folder(directory, name)
    if folder is None:
        near = did_you_mean(name, [path.name for path in directory.iterdir() if path.is_dir()])
        raise InputError(f"{directory}: no directory of the task {name}{near}")
    return Pool(name, _files_of(folder, name))


def find_folder(directory: Path, name: str) -> Path | None:
    """A task's directory, None where there is none. Raises InputError where there are two."""
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory; expected one with a directory for each task")
    found = [p for p in sorted(directory.iterdir()) if p.is_dir() and canonical(p.name) == canonical(name)]
    if len(found) > 1:
        raise InputError(f"{directory}: {found[0].name} and {found[1].name} are one task's name; keep one of them")
    return found[0] if found else None


def _files_of(folder: Path, name: str) -> list[_File]:
    theirs = [(path, m) for path in sorted(folder.iterdir()) if path.is_file() and (m := FORM.fullmatch(path.name))]
    for path, m in theirs:
        if canonical(m["name"]) != canonical(name):
            raise InputError(f"{folder}: {path.name} is a file of the task {m['name']}; move it to its own directory")
    files = [_File(path, m["split"], int(m["k"]), int(m["seed"])) for path, m in theirs]
    plain = []
    for split, stems in SPLIT_FILES.items():
        found = [path for stem in stems for suffix in READERS if (path := folder / (stem + suffix)).is_file()]
        if len(found) > 1:
            raise InputError(f"{folder}: {found[0].name} and {found[1].name} both hold the {split} rows; keep one")
        plain += [_File(path, split) for path in found]
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
