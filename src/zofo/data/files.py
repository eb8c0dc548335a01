"""Rows from files: JSON lines, CSV, Parquet. Every row knows its place, for error messages."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zofo.errors import InputError, did_you_mean

SPLIT_FILES = {"train": ("train",), "dev": ("validation", "valid", "val", "dev"), "test": ("test",)}


@dataclass(frozen=True)
class Record:
    id: str
    place: str  # "rows.jsonl:17"
    row: dict[str, Any]


Records = Sequence[Record]
Tables = dict[str, Records]  # "train" and, where the source has them, "dev" and "test"


def read_tables(path: Path, name: str | None = None, alone: str = "train") -> Tables:
    """A directory's train, validation and test files, or one file as `alone`. Raises InputError where there is none.

    Ids are "name/split/row number" if a `name` is given, else the row's place in its file.
    """
    if path.is_file():
        return {alone: read_file(path, name and f"{name}/{alone}")}
    if not path.is_dir():
        raise InputError(f"{path}: no such file or directory")
    tables: Tables = {}
    for split, stems in SPLIT_FILES.items():
        paths = [f for stem in stems for suffix in READERS if (f := path / (stem + suffix)).is_file()]
        if len(paths) > 1:
            raise InputError(f"{path}: {paths[0].name} and {paths[1].name} both hold the {split} rows; keep one")
        if paths:
            tables[split] = read_file(paths[0], name and f"{name}/{split}")
    if not tables:
        raise no_train(path)
    return tables


def hub_tables(path: Path, name: str, config: str | None, splits: Mapping[str, str]) -> Tables | None:
    """The tables of a downloaded hub repository (train-00000-of-00001.parquet, ...); None where `path` is none.

    config: of the data set, a folder of the repository. splits: {ours: the hub's}; only these are read, so that a test
    split without labels is not.
    """
    for folder in dict.fromkeys((path, path / (config or "data"), path / "data", path / "plain_text")):
        shards_of = {ours: _shards(folder, theirs) for ours, theirs in splits.items()}
        if any(shards_of.values()):
            return {
                ours: [record for shard in shards for record in read_file(shard, f"{name}/{splits[ours]}/{shard.stem}")]
                for ours, shards in shards_of.items()
                if shards
            }
    return None


def _shards(folder: Path, split: str) -> list[Path]:
    return sorted(f for suffix in READERS for f in folder.glob(f"{split}-[0-9]*-of-[0-9]*{suffix}"))


def read_file(path: Path, prefix: str | None = None) -> list[Record]:
    """All rows of a file. Raises InputError naming file and line."""
    reader = READERS.get("".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix)
    if reader is None:
        raise InputError(f"{path}: unknown kind of file; known: {', '.join(READERS)}")
    try:
        numbered = list(reader(path))
    except (OSError, EOFError) as e:  # the latter of a .gz that was cut
        raise InputError(f"{path}: {getattr(e, 'strerror', None) or e}") from None
    except UnicodeDecodeError as e:
        raise InputError(f"{path}: not UTF-8 ({e.reason} in byte {e.start}); save it as UTF-8") from None
    if not numbered:
        raise InputError(f"{path}: no rows")
    return [
        Record(f"{prefix}/{number}" if prefix else f"{path.name}:{line}", f"{path.name}:{line}", row)
        for number, (line, row) in enumerate(numbered)
    ]


def _jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    compressed = path.suffix == ".gz"
    with gzip.open(path, "rt", encoding="utf-8-sig") if compressed else path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.rstrip())  # so that a cut line's column is where it was cut
            except json.JSONDecodeError as e:
                raise InputError(f"{path.name}:{number}: bad JSON: {e.msg} at column {e.colno}") from None
            if not isinstance(row, dict):
                raise InputError(f"{path.name}:{number}: expected one JSON object a line, found a {type(row).__name__}")
            yield number, row


def _csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        try:
            for row in reader:
                if None in row or None in row.values():
                    columns = len(reader.fieldnames or ())
                    problem = "more" if None in row else "fewer"
                    raise InputError(f"{path.name}:{reader.line_num}: {problem} fields than the header's {columns}")
                yield reader.line_num, dict(row)
        except csv.Error as e:
            raise InputError(f"{path.name}:{reader.line_num}: bad CSV: {e}") from None


def _parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as e:
        raise InputError(f"{path.name}: not a readable Parquet file: {str(e).splitlines()[0]}") from None
    yield from enumerate(rows, 1)


READERS: dict[str, Callable[[Path], Iterator[tuple[int, dict[str, Any]]]]] = {
    ".jsonl": _jsonl,
    ".jsonl.gz": _jsonl,
    ".csv": _csv,
    ".parquet": _parquet,
}


def columns_of(records: Records) -> list[str]:
    """Columns of the first rows, in order."""
    return list(dict.fromkeys(key for i in range(min(len(records), 100)) for key in records[i].row))


def no_train(where: Path | str) -> InputError:
    files = ", ".join("train" + suffix for suffix in READERS)
    return InputError(
        f"{where}: no train file; expected one of {files} (to evaluate a plain model, test.jsonl is enough)"
    )


def file_of(records: Records) -> str:
    return records[0].place.rpartition(":")[0] or records[0].place


def missing_column(column: str, records: Records) -> InputError:
    has = columns_of(records)
    return InputError(
        f'{file_of(records)}: missing column "{column}"; has: {", ".join(has)}{did_you_mean(column, has)}'
    )
