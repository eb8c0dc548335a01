"""Rows as the bytes of a file of any kind that rows are read from."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zofo.config.json_text import dumps
from zofo.data.annotated import Style, cell, kind_of


def as_file(path: Path, rows: Sequence[Mapping[str, Any]]) -> bytes:
    """JSON lines, a JSON list, CSV, TSV or Parquet, as the path's name says; compressed where it ends in .gz.

    A number that is not finite is null. Lists and mappings are JSON in a CSV; a column of Parquet is JSON where
    its rows have values of several types.
    """
    kind = kind_of(path)
    if kind == ".parquet":
        return _parquet([json.loads(dumps(row)) for row in rows])
    if kind == ".jsonl":
        text = "".join(dumps(row) + "\n" for row in rows)
    elif kind == ".json":
        text = "[\n" + ",\n".join(map(dumps, rows)) + "\n]\n"
    else:
        names, style = _names(rows), Style(kind)
        cells = [[cell(row.get(name)) for name in names] for row in rows]
        text = "".join(map(style.line, [names, *cells]))
    content = text.encode()
    return gzip.compress(content, mtime=0) if path.name.lower().endswith(".gz") else content


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def _parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    columns = {}
    for name in _names(rows):
        values = [row.get(name) for row in rows]
        try:
            columns[name] = pyarrow.array(values)
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError):
            texts = [None if value is None else dumps(value, ensure_ascii=False) for value in values]
            columns[name] = pyarrow.array(texts, pyarrow.string())
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()
