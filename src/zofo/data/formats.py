"""Lines of a file as rows: JSON lines, CSV, tab-separated values, Parquet; what can be compressed may be.

A fault that one row has alone is said of the row (`RowFault`); what the whole file has wrong is an InputError.
"""

from __future__ import annotations

import csv
import gzip
import io
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
from zofo.errors import InputError, printable

POINTER = b"version https://git-lfs.github.com/spec/"
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # as JSON may write one
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}

Row = dict[str, Any]


class RowFault(str):
    """In place of a row: what is wrong with it."""


EMPTY = RowFault("the row is empty; drop it")
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
    suffix = data_suffix(path)
    if suffix is None:
        raise InputError(f"{path}: unknown kind of file; known: {', '.join(DATA_SUFFIXES)}")
    try:
        _look(path, suffix.endswith(".gz"))
        numbered = READERS[suffix](path, head)
        return list(numbered) if head is None else _first(numbered, head)
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
        row = json.loads(line, object_pairs_hook=_once)
    except json.JSONDecodeError as e:
        return RowFault(f"bad JSON: {e.msg} at column {e.colno}")
    except RecursionError:
        return RowFault("bad JSON: lists or objects nested too deep to be read")
    except _TwiceError as e:
        return RowFault(f'bad JSON: the key "{printable(str(e), 60)}" is given twice; keep one')
    except ValueError:  # Python's own bound, against numbers that take minutes to read
        return RowFault("bad JSON: a number of more than 4300 digits; write it as text")
    if not isinstance(row, dict):
        return RowFault(f"expected one JSON object a line, found a {type(row).__name__}")
    if _is_empty(row):
        return EMPTY
    if SURROGATE.search(line) and (column := next((key for key in row if not _whole([key, row[key]])), None)):
        shown = printable(column, 60)
        return RowFault(
            f'"{shown}" holds a lone surrogate, half a character (\\ud800 to \\udfff); mend or drop the row'
        )
    return row


def _is_empty(row: Row) -> bool:
    """Without a value in any column; a text alone in its row may be "", as a prompt to go on from."""
    blank = [value is None or (isinstance(value, str) and len(row) > 1 and not value.strip()) for value in row.values()]
    return all(blank)


class _TwiceError(Exception):
    pass


def _once(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _TwiceError(next(key for key in keys if keys.count(key) > 1))
    return row


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


def _csv(path: Path, head: Head | None) -> Numbered:
    return _separated(path, ",", head)


def _tsv(path: Path, head: Head | None) -> Numbered:
    return _separated(path, "\t", head)


def _separated(path: Path, delimiter: str, head: Head | None) -> Numbered:
    """Rows of named fields. Blank lines are none."""
    with _open(path, newline="") as file, _long_fields():
        reader, line = csv.reader(head.lines(file) if head else file, delimiter=delimiter, strict=True), 1
        try:
            names = next((fields for fields in reader if fields), [])
            _check_names(path, names, delimiter)
            line = reader.line_num + 1
            for fields in reader:
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
        return EMPTY
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
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f'{path.name}:1: two columns have the name "{printable(twice, 60)}"; rename or drop one')


def _parquet(path: Path, head: Head | None) -> Numbered:
    import pyarrow
    import pyarrow.parquet

    try:
        if head is None:
            rows = pyarrow.parquet.read_table(path).to_pylist()
        else:
            with pyarrow.parquet.ParquetFile(path) as file:
                rows = [dict.fromkeys(file.schema_arrow.names)] * min(file.metadata.num_rows, 1)
    except UnicodeDecodeError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError) as e:
        reason = str(e).splitlines()[0].partition(": T")[0]  # without the class of Thrift's that it names
        reason = re.sub("^Could not open Parquet input source '.*': ", "", reason)
        raise InputError(
            f"{path.name}: not a readable Parquet file ({reason}), as by a download that was cut; make it again"
        ) from None
    for number, row in enumerate(rows, 1):
        yield number, EMPTY if head is None and _is_empty(row) else row


_PLAIN: dict[str, Callable[[Path, Head | None], Numbered]] = {
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
}
READERS = {suffix: _PLAIN[suffix.removesuffix(".gz")] for suffix in DATA_SUFFIXES}
