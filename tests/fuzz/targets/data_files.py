"""Rows of one's own: JSON lines, CSV, Parquet and what is compressed."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import re
from pathlib import Path
from typing import Any, Literal

from tests.conftest import sentiment_rows
from tests.fuzz.case import Case
from tests.fuzz.damage import HOSTILE, dumps, spoil_bytes, spoil_value
from tests.fuzz.targets.rows_named import CSV, JSONL
from tests.fuzz.world import FEW, World

COUNT = 170
Row = dict[str, Any]


def usable(row: Any) -> bool:
    """Whether a row of text and label can be trained on, by the documentation: written without the code under test."""
    if not isinstance(row, dict):
        return False
    text, label = row.get("text"), row.get("label")
    if not isinstance(text, str) or not text.strip() or isinstance(label, (list, dict, type(None))):
        return False
    if isinstance(label, float) and not (label == label and abs(label) < 1e15 and label == int(label)):
        return False
    if isinstance(label, int) and abs(label) > 10**300:
        return False
    if isinstance(label, str) and not label.strip():
        return False
    return all("\ud800" not in value for value in (text, label) if isinstance(value, str))


def expected(written: bytes) -> Literal["refused", "either"]:
    """Of JSON lines."""
    try:
        lines = [line for line in re.split("[\r\n]", written.decode("utf-8-sig")) if line.strip()]
        return "either" if lines and all(usable(json.loads(line)) for line in lines) else "refused"
    except (ValueError, RecursionError):
        return "refused"


def as_csv(rows: list[Row], rng: random.Random) -> bytes:
    text = io.StringIO()
    writer = csv.writer(
        text, delimiter=rng.choice([",", ",", ";", "\t", "|"]), lineterminator=rng.choice(["\n", "\r\n"])
    )
    writer.writerow(["text", "label"])
    writer.writerows([row["text"], row["label"]] for row in rows)
    return text.getvalue().encode()


def make(world: World, folder: Path, rng: random.Random, number: int) -> Case:
    out = folder / "out"
    if number < len(JSONL):
        what, line, expect, *more = JSONL[number]
        path = folder / "rows.jsonl"
        right = "".join(json.dumps(row) + "\n" for row in sentiment_rows(12)).encode()
        path.write_bytes(right + (line if isinstance(line, bytes) else line.encode("utf-8", "surrogatepass")) + b"\n")
        return _case(world, f"jsonl: {what}", path, out, expect, more)
    if (at := number - len(JSONL)) < len(CSV):
        what, name, content, expect, *more = CSV[at]
        path = folder / name
        path.write_bytes(content)
        return _case(world, f"csv: {what}", path, out, expect, more)
    return _drawn(world, folder, rng, number, out)


def _drawn(world: World, folder: Path, rng: random.Random, number: int, out: Path) -> Case:
    rows: list[Row] = [dict(row) for row in sentiment_rows(16)]
    kind = (".jsonl", ".jsonl", ".csv", ".jsonl.gz", ".parquet", ".csv.gz")[number % 6]
    path = folder / f"rows{kind}"
    if kind == ".parquet":
        what, expect, content = _parquet(rng, rows)
    elif kind.startswith(".csv"):
        content = as_csv(rows, rng)
        what, content = spoil_bytes(rng, content)
        expect = "either"
    elif number % 4 < 3:
        index = rng.randrange(len(rows))
        what, rows[index] = spoil_value(rng, rows[index])
        content = "".join(dumps(row) + "\n" for row in rows).encode("utf-8", "surrogatepass")
        expect = expected(content)
    else:
        what, content = spoil_bytes(rng, "".join(json.dumps(row) + "\n" for row in rows).encode())
        expect = expected(content)
    if kind.endswith(".gz"):
        content = gzip.compress(content, mtime=0)
        if rng.random() < 0.3:
            what, content = f"{what}, then cut", content[: rng.randrange(len(content))]
            expect = "refused"
    path.write_bytes(content)
    return _case(world, f"{path.name}: {what}", path, out, expect, [])


def _parquet(rng: random.Random, rows: list[Row]) -> tuple[str, Literal["refused", "either"], bytes]:
    import pyarrow
    import pyarrow.parquet

    column, value = (
        rng.choice(["text", "label"]),
        rng.choice([v for v in HOSTILE if not isinstance(v, int) or abs(v) < 2**62]),
    )
    changed = [{**row, column: value} for row in rows] if rng.random() < 0.5 else [*rows, {**rows[0], column: value}]
    try:
        table = pyarrow.Table.from_pylist(changed)
    except (pyarrow.ArrowException, UnicodeEncodeError, TypeError, OverflowError):
        table, value = pyarrow.Table.from_pylist(rows), "nothing"
    sink = io.BytesIO()
    try:
        pyarrow.parquet.write_table(table, sink)
    except pyarrow.ArrowException:
        table, value, sink = pyarrow.Table.from_pylist(rows), "nothing", io.BytesIO()
        pyarrow.parquet.write_table(table, sink)
    content = sink.getvalue()
    if rng.random() < 0.5:
        what, spoilt = spoil_bytes(rng, content)
        return what, "either", spoilt
    good = all(usable(row) for row in table.to_pylist())
    return f"{column} = {str(value)[:30]!r}", "either" if good else "refused", content


def _case(world: World, what: str, path: Path, out: Path, expect: Any, more: list[str]) -> Case:
    args = [
        "train",
        "--model",
        str(world.model),
        "--task",
        str(path),
        "--method",
        "zero-shot",
        "--output-dir",
        str(out),
    ]
    return Case(what, [*args, *FEW, *more], (path.name, "task."), out, expect)
