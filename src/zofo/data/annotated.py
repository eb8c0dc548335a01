"""A file's rows with columns of ours beside their own, the same kind of file out, a window of rows at a time.

A window is written as a part, whole or not at all; the parts are joined in the end. So a million rows need no more
memory than a thousand, and what a kill leaves behind can be gone on from.
"""

from __future__ import annotations

import csv
import gzip
import io
import shutil
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal

from zofo.config.json_text import dumps
from zofo.config.sections import data_suffix
from zofo.data.arrow_rows import check_twice, parquet_errors, python_rows
from zofo.data.files import Record
from zofo.data.formats import EmptyRow, RowFault, listed, named_errors, stream
from zofo.errors import InputError

DEEPEST = 100  # lists and objects within each other
ROW_GROUP = 2**15  # rows of a Parquet file that are together, at most, and
GROUP_BYTES = 2**26


@dataclass(frozen=True)
class Window:
    """Rows that are answered together. raw: what a part of the same kind is made of: the rows, or an Arrow table."""

    records: list[Record]
    raw: Any


def kind_of(path: Path) -> str:
    """.jsonl, .json, .csv, .tsv or .parquet, whether it is compressed or not; "" for no kind of rows."""
    return (data_suffix(path) or "").removesuffix(".gz")


def windows(path: Path, size: int) -> Generator[Window]:
    """All rows of a file. Raises InputError naming the row for one that cannot be read."""
    if kind_of(path) == ".parquet":
        yield from _arrow_windows(path, size)
        return
    rows = stream(path)
    while numbered := list(islice(rows, size)):
        records = [record_of(path, line, row) for line, row in numbered]
        yield Window(records, [record.row for record in records])


def record_of(path: Path, line: int, row: Any) -> Record:
    """Raises InputError for what is no row, or cannot be written again: its columns could not be kept."""
    place = f"{path.name}:{line}"
    if isinstance(row, EmptyRow):  # its columns are known, and stay
        row = row.row
    if isinstance(row, RowFault):
        raise InputError(f"{place}: {row}")
    if _deeper(row, DEEPEST):
        raise InputError(f"{place}: lists or objects nested more than {DEEPEST} deep; write them as a text")
    return Record(place, place, row)


def _deeper(value: Any, depth: int) -> bool:
    inside = value.values() if isinstance(value, dict) else value
    return not depth or any(_deeper(each, depth - 1) for each in inside if isinstance(each, dict | list))


def _arrow_windows(path: Path, size: int) -> Generator[Window]:
    import pyarrow
    import pyarrow.parquet

    first = 1
    with named_errors(path), parquet_errors(path), pyarrow.parquet.ParquetFile(path) as file:
        check_twice(path.name, file.schema_arrow.names)
        for batch in file.iter_batches(size):
            records = [record_of(path, number, row) for number, row in enumerate(python_rows(batch), first)]
            yield Window(records, pyarrow.Table.from_batches([batch]))
            first += batch.num_rows


# -------------------------------------------------------------------------------------------------------------- parts


@dataclass(frozen=True)
class Column:
    name: str
    kind: Literal["text", "number", "numbers"]


@dataclass(frozen=True)
class Style:
    """How a file of rows is written, where its kind has more than one way.

    names: of the columns of a .csv or .tsv. mark: of UTF-8, before them. end: of its lines. listed: a .json is a list.
    """

    kind: str
    names: tuple[str, ...] = ()
    mark: str = ""
    end: str = "\n"
    listed: bool = False

    @staticmethod
    def of(source: Path) -> Style:
        """As `source` was written, such as by a spreadsheet. Raises InputError where it has no row."""
        kind = kind_of(source)
        if kind == ".json":
            return Style(kind, listed=listed(source))
        if kind not in (".csv", ".tsv"):
            return Style(kind)
        reading: Any = gzip.open if source.suffix.lower() == ".gz" else Path.open
        with reading(source, "rb") as file:
            line: bytes = file.readline(2**20)
        _, row = next(stream(source), (0, None))
        row = row.row if isinstance(row, EmptyRow) else row
        if not isinstance(row, dict):
            raise InputError(f"{source}: no rows")
        mark = "\ufeff" if line.startswith(b"\xef\xbb\xbf") else ""
        return Style(kind, tuple(row), mark, "\r\n" if line.endswith(b"\r\n") else "\n")

    def line(self, cells: Sequence[Any]) -> str:
        """Of a .csv or .tsv, with its end."""
        line = io.StringIO(newline="")
        # the module quotes a line's end in a cell only where it is among these
        csv.writer(line, delimiter="\t" if self.kind == ".tsv" else ",", lineterminator="\r\n").writerow(cells)
        return line.getvalue()[:-2] + self.end


def write_part(
    path: Path, style: Style, window: Window, columns: Sequence[Column], cells: Sequence[Sequence[Any]]
) -> None:
    """A window's rows with the new columns' cells, [rows][columns]. Written in place, so give a draft's path."""
    if style.kind == ".parquet":
        _write_arrow(path, window.raw, columns, cells)
        return
    names = [column.name for column in columns]
    rows = [{**row, **dict(zip(names, more))} for row, more in zip(window.raw, cells, strict=True)]
    with path.open("w", encoding="utf-8", newline="") as file:
        if style.kind in (".jsonl", ".json"):
            file.writelines(dumps(row, ensure_ascii=False) + "\n" for row in rows)
        else:
            file.writelines(style.line([cell(value) for value in row.values()]) for row in rows)


def cell(value: Any) -> str:
    """What a CSV has for it: nothing for None and NaN, a list as JSON."""
    text = value if isinstance(value, str) else dumps(value, ensure_ascii=False)
    return "" if text == "null" and not isinstance(value, str) else text


def _write_arrow(path: Path, table: Any, columns: Sequence[Column], cells: Sequence[Sequence[Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    number = pyarrow.float64()
    types = {"text": pyarrow.string(), "number": number, "numbers": pyarrow.list_(number)}
    for place, column in enumerate(columns):
        values = pyarrow.array([row[place] for row in cells], type=types[column.kind])
        table = table.append_column(column.name, values)
    pyarrow.parquet.write_table(table, path)


# ------------------------------------------------------------------------------------------------------------ together


def join(parts: Sequence[Path], output: Path, style: Style, columns: Sequence[Column], compressed: bool) -> None:
    """One file from its parts, in order. Written in place, so give a draft's path."""
    if style.kind == ".parquet":
        _join_arrow(parts, output)
        return
    with _bytes_of(output, compressed) as file:
        if style.names:
            header = style.line([*style.names, *(column.name for column in columns)])
            file.write((style.mark + header).encode())
        if style.listed:
            _join_list(parts, file)
            return
        for part in parts:
            with part.open("rb") as one:
                shutil.copyfileobj(one, file)


@contextmanager
def _bytes_of(output: Path, compressed: bool) -> Iterator[Any]:
    with output.open("wb") as file:
        if not compressed:
            yield file
            return
        with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:  # no name and no date: the same bytes each time
            yield packed


def _join_list(parts: Sequence[Path], file: IO[bytes]) -> None:
    before = b"[\n"
    for part in parts:
        with part.open("rb") as one:
            for line in one:
                file.write(before + line.rstrip(b"\n"))
                before = b",\n"
    file.write(b"\n]\n")


def _join_arrow(parts: Sequence[Path], output: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(parts[0]) as first:
        schema = first.schema_arrow
    with pyarrow.parquet.ParquetWriter(output, schema) as writer:
        group: list[Any] = []
        for part in parts:
            with pyarrow.parquet.ParquetFile(part) as one:
                group.append(one.read().cast(schema))
            if sum(t.num_rows for t in group) >= ROW_GROUP or sum(t.nbytes for t in group) >= GROUP_BYTES:
                writer.write_table(pyarrow.concat_tables(group))
                group = []
        if group:
            writer.write_table(pyarrow.concat_tables(group))
