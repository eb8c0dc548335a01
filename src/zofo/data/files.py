"""Rows from files and directories. Every row knows its place, for error messages."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zofo.data.formats import Head, Row, RowFault, rows_of
from zofo.errors import InputError, did_you_mean, first_few, nearest, printable

log = logging.getLogger("zofo")
SPLIT_FILES = {"train": ("train",), "dev": ("validation", "valid", "val", "dev"), "test": ("test",)}


@dataclass(frozen=True, slots=True)
class Record:
    id: str
    place: str  # "rows.jsonl:17"
    row: dict[str, Any]


Records = Sequence[Record]
Tables = dict[str, Records]  # "train" and, where the source has them, "dev" and "test"


class BadRows:
    """What is done with rows that cannot be used: all of them are one error, or (skip) each is left out and counted.

    skip: task.on_bad_row; None: of a verb that has no such setting. An error is raised by `check`, after a file or a
    split has been looked through, or where several are `gathered`, after the last of them.
    """

    def __init__(self, skip: bool | None = None) -> None:
        self.skip, self._may_skip = bool(skip), skip is not None
        self.counts: Counter[str] = Counter()  # by reason, such as "unknown label"
        self.places: set[str] = set()  # a file may be read again: a row counts once
        self.faults: list[str] = []  # where they are an error, each with its place
        self._first: dict[str, str] = {}  # each reason's first row, as its error has it
        self._looked_at: dict[str, int] = {}  # rows of each file or split
        self._gathers = False

    def refuse(self, error: InputError, place: str) -> None:
        """A row's error. Raises it at once where it is not the row's own."""
        if not str(error).startswith(place):
            raise error
        if place in self.places:
            return
        self.places.add(place)
        reason = _reason(str(error).removeprefix(place))
        self.counts[reason] += 1
        self._first.setdefault(reason, str(error))
        if not self.skip:
            self.faults.append(str(error))

    def check(self, what: str, looked_at: int, before: int) -> None:
        """Raises InputError where rows are in error, or where more than half of the rows looked at since `before` (a
        total) are left out."""
        left_out = self.counts.total() - before
        self.stop(what, looked_at)
        if self.skip and left_out and 2 * left_out > looked_at:
            raise InputError(
                f"{what}: task.on_bad_row=skip would leave out {left_out} of {looked_at} rows, more than half, as of "
                f"another format; the first: {next(iter(self._first.values()))}"
            )

    def stop(self, what: str, looked_at: int) -> None:
        """Raises InputError where rows are in error."""
        self._looked_at[what] = max(looked_at, self._looked_at.get(what, 0))
        if self.faults and not self._gathers:
            raise self._error()

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Rows in error of all that is read inside are one error, which comes before what else is raised there."""
        if self._gathers:  # the outer one says it
            yield
            return
        self._gathers = True
        try:
            yield
        except InputError as error:
            if not self.faults:
                raise
            if " column" in str(error):
                raise InputError(f"{self._error()}\n{error}") from None
            raise self._error() from None  # which left too few rows, or none with some label
        finally:
            self._gathers = False
        if self.faults:
            raise self._error()

    def _error(self) -> InputError:
        """The first few rows, each with its place and what is wrong, the number of all, and what helps."""
        faults, total = sorted(self.faults, key=_line_of), sum(self._looked_at.values())
        skip = self._may_skip and 2 * len(faults) <= total
        if len(faults) == 1:
            gap = " " if faults[0].endswith("?") else "; "
            return InputError(faults[0] + (f"{gap}or leave out such rows: task.on_bad_row=skip" if skip else ""))
        if len(faults) == total and len(self.counts) == 1:
            return InputError(f"{faults[0]} (and so are all of the {total} rows)")
        brief = first_few([printable(MEND.sub("", fault), 180) for fault in faults], between="; ")
        helps = ", or leave them out: task.on_bad_row=skip" if skip else ""
        return InputError(f"{len(faults)} rows cannot be used: {brief}; mend or drop them{helps}")

    def say(self, name: str) -> dict[str, int]:
        """{reason: rows left out for it}, and a warning of each. name: of the data."""
        for line in self.lines():
            log.warning("%s: %s", name, line)
        return dict(self.counts.most_common())

    def lines(self) -> list[str]:
        """For the log: how many, why, and the first of each kind."""
        return [
            f"{count} row{'s' * (count > 1)} left out: {reason} (the first: {self._first[reason]})"
            for reason, count in self.counts.most_common()
        ]


MEND = re.compile("; (mend or drop the row|drop the row|drop it)$")  # said once for several


def _line_of(fault: str) -> tuple[str, int]:
    """(file, line) for an order."""
    place = re.match(r"(.*?):(\d+):", fault)
    return (place[1], int(place[2])) if place else (fault, 0)


def _reason(text: str) -> str:
    """The words of an error behind its place, as far as they are the same for all rows of its kind."""
    text = re.sub(r'^[\s:]*(\([^)]*\): )?([^\s:]+\.ya?ml: )?(template "[^"]*": )?', "", text)
    if "does not fit" in text or "no room" in text:
        return "too long"
    if named := re.match(r'no "[^"]*"', text):
        return printable(named.group(), 60)
    words = re.split(r"""[;:(]| ["'\[{\d-]""", text)[0].strip().removesuffix(", not")  # and what it was instead
    return printable(words, 60) or "of no use"


def read_file(
    path: Path, prefix: str | None = None, bad: BadRows | None = None, shown: str | None = None
) -> list[Record]:
    """All rows of a file. Raises InputError naming file and line, of rows that are skipped where `bad` has them so.

    shown: the file's name in places, where its own says too little.
    """
    return _records(path, rows_of(path), prefix, bad or BadRows(), True, shown)


class Undecided(Exception):
    """The head of a file does not say which columns its rows have."""


def read_head(
    path: Path, prefix: str | None = None, bad: BadRows | None = None, shown: str | None = None
) -> list[Record]:
    """The rows by which a file's columns are judged, at a cost that does not grow with it: all that `columns_of` looks
    at, and of Parquet one with its columns and no values.

    Raises InputError as `read_file` would, and Undecided where the rows are too long for that.
    """
    head = Head()
    numbered = rows_of(path, head)
    if head.cut:
        raise Undecided(path)
    return _records(path, numbered, prefix, bad or BadRows(), head.whole, shown)


def _records(
    path: Path,
    numbered: Sequence[tuple[int, Row | RowFault]],
    prefix: str | None,
    bad: BadRows,
    whole: bool,
    shown: str | None = None,
) -> list[Record]:
    """whole: all rows of the file."""
    before, records, name = bad.counts.total(), [], shown or path.name
    for number, (line, row) in enumerate(numbered):
        place = f"{name}:{line}"
        if isinstance(row, RowFault):
            bad.refuse(InputError(f"{place}: {row}"), place)
        else:
            records.append(Record(f"{prefix}/{number}" if prefix else place, place, row))
    if whole or not bad.skip:
        bad.check(name, len(numbered), before)
    if not records:
        raise InputError(f"{path}: no rows")
    return records


def columns_of(records: Records) -> list[str]:
    """Columns of the first rows, in order."""
    return list(dict.fromkeys(key for i in range(min(len(records), 100)) for key in records[i].row))


def file_of(records: Records) -> str:
    return records[0].place.rpartition(":")[0] or records[0].place


def missing_column(column: str, records: Records, where: str = "", taken: Sequence[str] = ()) -> InputError:
    """where: what reads the column, "sst2.yaml: gold". taken: columns that have another use, and are not misspelt."""
    at = (
        f'{where}: no column "{column}" in {file_of(records)}' if where else f'{file_of(records)}: no column "{column}"'
    )
    return InputError(f"{at}; has: {_listed(columns_of(records))}{renamed([column], records, taken)}")


def unknown_column(column: str, records: Records, where: str) -> InputError:
    """where: what names a column that the file has not, "--text-column"."""
    has = columns_of(records)
    shown = f'{where}: no column "{printable(column, 60)}" in {file_of(records)}'
    return InputError(f"{shown}; has: {_listed(has)}{did_you_mean(column, has)}")


def renamed(columns: Sequence[str], records: Records, taken: Sequence[str] = ()) -> str:
    """`; did you mean "txt" for "text"? rename it to "text"`, for those of the columns that are there misspelt."""
    near: dict[str, str] = {}
    for column in columns:
        others = [name for name in columns_of(records) if name not in (*taken, *columns, *near.values())]
        if (theirs := nearest(column, others)) is not None:
            near[column] = theirs
    if not near:
        return ""

    def quoted(column: str) -> str:
        return f'"{column}"' if len(columns) > 1 else "it"

    meant = " and ".join(f'"{printable(theirs, 60)}" for {quoted(column)}' for column, theirs in near.items())
    return f"; did you mean {meant}? rename " + (f'it to "{next(iter(near))}"' if len(near) == 1 else "them")


def _listed(columns: Sequence[str]) -> str:
    return printable(", ".join(map(str, columns)), 300)
