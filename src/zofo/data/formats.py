"""Lines of a file as rows: JSON lines and lists, CSV, tab-separated values, Parquet; what can be compressed may be.

A fault that one row has alone is said of the row (`RowFault`); what the whole file has wrong is an InputError.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import re
import sys
import threading
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zofo.config.sections import DATA_SUFFIXES, data_suffix
from zofo.data.arrow_rows import check_twice, parquet_errors, python_rows
from zofo.data.json_array import TwiceError, items, once
from zofo.data.kept_rows import kept
from zofo.errors import InputError, printable

POINTER = b"version https://git-lfs.github.com/spec/"
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # as JSON may write one
PARQUET_ROWS = 1024  # that are made Python objects of at once
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}

Row = dict[str, Any]


class RowFault(str):
    """In place of a row: what is wrong with it."""


class EmptyRow(RowFault):
    """row: its columns, which have no value."""

    row: Row

    def __new__(cls, row: Row) -> EmptyRow:
        fault = super().__new__(cls, "the row is empty; drop it")
        fault.row = row
        return fault


Numbered = Generator[tuple[int, Row | RowFault]]  # with the number of the line


@dataclass
class Head:
    """How much of a file is read to judge its columns. Of Parquet that is one row of empty cells, from its schema."""

    rows: int = 100  # as many as `columns_of` looks at
    characters: int = 2**24
    whole: bool = True  # whether the file ended before these bounds
    cut: bool = False  # whether `characters` ended it, so that a row behind them may have other columns

    def lines(self, file: io.TextIOBase) -> Iterator[str]:
        """Its lines, none of them in part."""
        left = self.characters
        while line := file.readline(left):
            left -= len(line)
            if left <= 0:
                self.whole, self.cut = False, True
                return
            yield line


def rows_of(path: Path, head: Head | None = None) -> list[tuple[int, Row | RowFault]]:
    """All rows of a file, or those of its head. Raises InputError naming the file for what no row is at fault of."""
    with named_errors(path):
        numbered = _reader(path)(path, head)
        return _first(numbered, head) if head else kept(path, lambda: list(numbered))


def stream(path: Path) -> Numbered:
    """The rows of a file, one after the other, in memory that does not grow with their number. As `rows_of`."""
    with named_errors(path):
        yield from _reader(path)(path, None)


def _reader(path: Path) -> Callable[[Path, Head | None], Numbered]:
    suffix = data_suffix(path)
    if suffix is None:
        raise InputError(f"{path}: unknown kind of file; known: {', '.join(DATA_SUFFIXES)}")
    _look(path, suffix.endswith(".gz"))
    return READERS[suffix]


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """What the reading of a file raises, as an InputError that names it."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as e:  # the latter two of a .gz that was cut
        reason = getattr(e, "strerror", None) or str(e).splitlines()[0]
        raise InputError(f"{path}: {reason}") from None
    except UnicodeDecodeError as e:
        raise InputError(f"{path}: not UTF-8 ({e.reason} in byte {e.start}); save it as UTF-8") from None
    except ValueError as e:  # a path with a NUL in it
        raise InputError(f"{printable(str(path), 300)}: {e}") from None


def _first(numbered: Numbered, head: Head) -> list[tuple[int, Row | RowFault]]:
    """Up to the last of `head.rows` rows, faults apart."""
    rows, wanted = [], head.rows
    with closing(numbered):
        for row in numbered:
            rows.append(row)
            wanted -= not isinstance(row[1], RowFault)
            if not wanted:
                head.whole = False
                break
    return rows


def _look(path: Path, compressed: bool) -> None:
    """Raises InputError for what is another kind of file than its name says."""
    with path.open("rb") as file:
        start = file.read(len(POINTER))
    if start == POINTER:
        raise InputError(f"{path}: is a git-lfs pointer and not the data; run `git lfs pull` there")
    if start[:2] == b"\x1f\x8b" and not compressed:
        raise InputError(f"{path}: is compressed by gzip, which its name does not say; rename it to {path.name}.gz")
    if compressed and start and start[:2] != b"\x1f\x8b":
        raise InputError(f"{path}: is not compressed, though its name ends in .gz; rename it to {path.name[:-3]}")


def _open(path: Path, newline: str | None = None) -> io.TextIOBase:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline=newline)  # pyright: ignore[reportReturnType]
    return path.open(encoding="utf-8-sig", newline=newline)


# -------------------------------------------------------------------------------------------------------- JSON lines


def _jsonl(path: Path, head: Head | None) -> Numbered:
    with _open(path) as file:
        for number, line in enumerate(head.lines(file) if head else file, 1):
            if line.strip():
                yield number, _object(line.rstrip())  # so that a cut line's column is where it was cut


def _object(line: str) -> Row | RowFault:
    try:
        row = json.loads(line, object_pairs_hook=once)
    except json.JSONDecodeError as e:
        return RowFault(f"bad JSON: {e.msg} at column {e.colno}")
    except RecursionError:
        return RowFault("bad JSON: lists or objects nested too deep to be read")
    except TwiceError as e:
        return RowFault(f'bad JSON: the key "{printable(str(e), 60)}" is given twice; keep one')
    except ValueError:  # Python's own bound, against numbers that take minutes to read
        return RowFault("bad JSON: a number of more than 4300 digits; write it as text")
    if not isinstance(row, dict):
        return RowFault(f"expected one JSON object a line, found a {type(row).__name__}")
    if _is_empty(row):
        return EmptyRow(row)
    return _whole_row(row) if SURROGATE.search(line) else row


def _json(path: Path, head: Head | None) -> Numbered:
    """A list of objects; or lines of them, as many a .json on the hub is. A list's rows are numbered from 1."""
    if not listed(path):
        yield from _jsonl(path, head)
        return
    with _open(path) as file, closing(items(file, path.name, head.characters if head else None)) as numbered:
        for number, row, fault in numbered:
            if head and not number:
                head.whole, head.cut = False, True
                return
            yield number, RowFault(fault) if fault else EmptyRow(row) if _is_empty(row) else _whole_row(row)


def _is_empty(row: Row) -> bool:
    """Without a value in any column; a text alone in its row may be "", as a prompt to go on from."""
    blank = [value is None or (isinstance(value, str) and len(row) > 1 and not value.strip()) for value in row.values()]
    return all(blank)


def listed(path: Path) -> bool:
    """Whether a .json holds a list, and not an object a line."""
    with _open(path) as file:
        start = next((sign for sign in iter(lambda: file.read(1), "") if not sign.isspace()), "")
    return start != "{"


def _whole_row(row: Row) -> Row | RowFault:
    """The row, or what is wrong with a text in it."""
    try:
        column = next((key for key in row if not _whole([key, row[key]])), None)
    except RecursionError:
        return RowFault("bad JSON: lists or objects nested too deep to be read")
    if column is None:
        return row
    shown = printable(column, 60)
    return RowFault(f'"{shown}" holds a lone surrogate, half a character (\\ud800 to \\udfff); mend or drop the row')


def _whole(value: Any) -> bool:
    """Whether all texts in a value can be written as UTF-8."""
    if isinstance(value, str):
        return not any("\ud800" <= char <= "\udfff" for char in value)
    if isinstance(value, dict):
        return all(_whole(part) for item in value.items() for part in item)
    return all(map(_whole, value)) if isinstance(value, list) else True


# --------------------------------------------------------------------------------------------- commas, tabs, Parquet

_LIMIT = threading.Lock()


@contextmanager
def _long_fields() -> Iterator[None]:
    """Fields of any length: the module's bound of 131,072 characters is the whole process's, so it is put back."""
    with _LIMIT:
        before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
        try:
            yield
        finally:
            csv.field_size_limit(before)


def _fields_of(reader: Iterator[list[str]]) -> Iterator[list[str]]:
    """Nothing is held between two rows: whoever reads them may read another file meanwhile, or stop for good."""
    while True:
        with _long_fields():
            fields = next(reader, None)
        if fields is None:
            return
        yield fields


def _csv(path: Path, head: Head | None) -> Numbered:
    return _separated(path, ",", head)


def _tsv(path: Path, head: Head | None) -> Numbered:
    return _separated(path, "\t", head)


def _separated(path: Path, delimiter: str, head: Head | None) -> Numbered:
    """Rows of named fields. Blank lines are none."""
    with _open(path, newline="") as file:
        reader, line = csv.reader(head.lines(file) if head else file, delimiter=delimiter, strict=True), 1
        try:
            lines = _fields_of(reader)
            names = next((fields for fields in lines if fields), [])
            _check_names(path, names, delimiter)
            line = reader.line_num + 1
            for fields in lines:
                if fields:
                    yield reader.line_num, _named(names, fields)
                line = reader.line_num + 1
        except (
            csv.Error
        ) as e:  # in strict reading of quotes alone, which may go wrong far behind where they were opened
            if head and head.cut:
                return
            what = "a quote is opened and never closed" if "end of data" in str(e) else str(e)
            raise InputError(f"{path.name}:{line}: bad CSV: {what}; a quote within a field is written twice") from None


def _named(names: list[str], fields: list[str]) -> Row | RowFault:
    if len(names) > 1 and not any(field.strip() for field in fields):
        return EmptyRow({**dict.fromkeys(names, ""), **dict(zip(names, fields))})
    if len(fields) != len(names):
        return RowFault(f"{'more' if len(fields) > len(names) else 'fewer'} fields than the header's {len(names)}")
    if fields == names:
        return RowFault("repeats the header; drop the row")
    return dict(zip(names, fields))


def _check_names(path: Path, names: list[str], delimiter: str) -> None:
    """Raises InputError for a header of which no row can be read."""
    other = next((sign for sign in DELIMITERS if len(names) == 1 and sign != delimiter and sign in names[0]), None)
    if other is not None:
        kind = ".tsv, with tabs" if delimiter == "\t" else ".csv, with commas"
        more = ", or name it .tsv" if other == "\t" else ", or name it .csv" if other == "," else ""
        raise InputError(
            f"{path.name}:1: found {DELIMITERS[other]} between the columns' names; a {kind} between fields, is "
            f"expected: save it so{more}"
        )
    check_twice(f"{path.name}:1", names)


def _parquet(path: Path, head: Head | None) -> Numbered:
    import pyarrow.parquet

    with parquet_errors(path), pyarrow.parquet.ParquetFile(path) as file:
        check_twice(path.name, file.schema_arrow.names)
        if head is not None:
            rows = [dict.fromkeys(file.schema_arrow.names)] * min(file.metadata.num_rows, 1)
            yield from enumerate(rows, 1)
            return
        number = itertools.count(1)
        for batch in file.iter_batches(PARQUET_ROWS):
            for row in python_rows(batch):
                yield next(number), EmptyRow(row) if _is_empty(row) else row


_PLAIN: dict[str, Callable[[Path, Head | None], Numbered]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
}
READERS = {suffix: _PLAIN[suffix.removesuffix(".gz")] for suffix in DATA_SUFFIXES}
