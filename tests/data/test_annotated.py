"""Rows of every kind of file come out as they went in, beside new columns, whatever the parts."""

from __future__ import annotations

import csv
import datetime
import decimal
import gzip
import io
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unanswered import rows_in
from zofo import InputError
from zofo.data.annotated import Column, Style, join, kind_of, windows, write_part
from zofo.data.formats import rows_of

COLUMNS = [Column("prediction", "text"), Column("probability_a", "number"), Column("probabilities", "numbers")]
CELLS = ['é, "x"\n', 0.1, [0.25, 0.75]]


def annotated(source: Path, size: int, out: Path) -> Path:
    """The file with the same three cells beside each row, its parts of `size` rows."""
    style, parts = Style.of(source), []
    for number, window in enumerate(windows(source, size)):
        assert len(window.records) <= size
        parts.append(source.parent / f"part-{number}")
        write_part(parts[-1], style, window, COLUMNS, [CELLS] * len(window.records))
    join(parts, out, style, COLUMNS, out.name.lower().endswith(".gz"))
    return out


def check(source: Path, size: int = 2) -> Path:
    out = annotated(source, size, source.with_name("out-" + source.name))
    given, written = rows_in(source), rows_in(out)
    listed = kind_of(source) in (".csv", ".tsv")
    new = ['é, "x"\n', "0.1", "[0.25, 0.75]"] if listed else CELLS
    assert written == [{**row, **dict(zip([c.name for c in COLUMNS], new))} for row in given]
    assert [list(row)[:-3] for row in written] == [list(row) for row in given], "the columns' order"
    return out


CSV = {
    "quotes": 'text,n\n"a ""b"", c",1\n"",2\n" x ",3\n',
    "lines in a cell": 'text,n\n"a\nb\r\nc",1\n"\n",2\nd,3\n',
    "a carriage return": 'text,n\n"a\rb",1\nc,2\n',
    "CRLF": 'text,n\r\n"a\nb\rc",1\r\nd,2\r\n',
    "CR": "text,n\ra,1\rb,2\r",
    "a mark": "\ufefftext,n\na,1\nb,2\n",
    "a mark and quotes": '\ufeff"text",n\r\na,1\r\n',
    "blank lines": "\n\ntext,n\n\na,1\n\n\nb,2\n\n",
    "no last end": "text,n\na,1\nb,2",
    "other ends of lines": "text,n\na\u2028b\x85\x0b\x0c\x1c,1\n",
    "NUL": "text,n\na\0b,1\nc,2\n",
    "one column": 'text\n""\nb\n',
    "a name with a line": '"te\nxt","n\r"\na,1\n',
    "other scripts": "Größe,文本\n\U0001f600,é\u0301\n",
}


@pytest.mark.parametrize("name", CSV)
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".CSV", ".csv.gz", ".TSV.GZ"])
def test_separated(name: str, suffix: str, tmp_path: Path) -> None:
    body = CSV[name].replace(",", "\t") if suffix.lower().startswith(".tsv") else CSV[name]
    source = tmp_path / f"rows{suffix}"
    packed = suffix.lower().endswith(".gz")
    source.write_bytes(gzip.compress(body.encode()) if packed else body.encode())
    out = check(source)
    text = (gzip.decompress(out.read_bytes()) if packed else out.read_bytes()).decode()
    assert text.startswith("\ufeff") == body.startswith("\ufeff"), "a spreadsheet's mark is kept"
    end = "\r\n" if "CRLF" in name or body.endswith("\r\n") else "\n"
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter="\t" if "\t" in text else ","))
    assert text.endswith((f"]{end}", f']"{end}')), "its ends of lines are kept"
    assert all(len(row) == len(rows[0]) for row in rows)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.text(st.characters(codec="utf-8")), st.sampled_from(["\r", "\n", '"', ",", "\t", "\0", ""])),
        min_size=1,
    ),
    st.integers(1, 4),
)
def test_any_cells(tmp_path: Path, rows: list[tuple[str, str]], size: int) -> None:
    """Against the standard library's reader and no more than one kind of file at a time."""
    source = tmp_path / "rows.csv"
    with source.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerows([("text", "other"), *rows])
    if ("text", "other") not in rows:  # such a row is refused, as a header that stands there twice
        check(source, size)


JSON: dict[str, list[dict[str, Any]]] = {
    "values": [{"text": "a", "x": [1, {"y": [None, 1.5, True, "é"]}], "n": 10**30, "e": 1e-300}, {"text": "b"}],
    "other columns in each row": [{"text": "a", "b": 1}, {"c": 2, "text": "b"}, {}],
    "ends of lines": [{"text": "\u2028\x85\r\n\t\0"}, {"\n": ""}],
    "deep": [{"text": json.loads("[" * 90 + "]" * 90)}],
    "long": [{"text": "x" * 200_000}, {"text": "y"}, {"text": "z" * 70_000}],
}


@pytest.mark.parametrize("name", JSON)
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".JSON", ".jsonl.gz", ".json.gz"])
@pytest.mark.parametrize("form", ["lines", "list", "list over many lines"])
def test_json(name: str, suffix: str, form: str, tmp_path: Path) -> None:
    if form != "lines" and ".jsonl" in suffix:
        return
    rows, source = JSON[name], tmp_path / f"rows{suffix}"
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    body = lines if form == "lines" else json.dumps(rows, indent=3 if "many" in form else None, ensure_ascii=False)
    packed = suffix.endswith(".gz")
    source.write_bytes(gzip.compress(body.encode()) if packed else body.encode())
    out = check(source)
    text = (gzip.decompress(out.read_bytes()) if packed else out.read_bytes()).decode()
    written = [json.loads(line) for line in text.split("\n")[:-1]] if form == "lines" else json.loads(text)
    assert [{k: v for k, v in row.items() if k in given} for row, given in zip(written, rows)] == rows


N = 7
ARROW: dict[str, Callable[[], Any]] = {
    "uint64": lambda: pyarrow.array([2**64 - 1] * N, pyarrow.uint64()),
    "float16": lambda: pyarrow.array([0.5] * N, pyarrow.float32()).cast(pyarrow.float16()),
    "bool with gaps": lambda: pyarrow.array([True, None, False, True, None, None, True]),
    "decimal": lambda: pyarrow.array([decimal.Decimal("1.10")] * N, pyarrow.decimal128(20, 2)),
    "date": lambda: pyarrow.array([datetime.date(2020, 1, 1)] * N),
    "a date that Python has not": lambda: pyarrow.array([2**30] * N, pyarrow.date32()),
    "a time that Python has not": lambda: pyarrow.array([2**62] * N, pyarrow.timestamp("us")),
    "nanoseconds": lambda: pyarrow.array([1234567890123456789] * N, pyarrow.timestamp("ns")),
    "a zone": lambda: pyarrow.array([1234567890] * N, pyarrow.timestamp("us", tz="Europe/Berlin")),
    "a zone that is not known": lambda: pyarrow.array([1234567890] * N, pyarrow.timestamp("us", tz="Mars/Nowhere")),
    "duration": lambda: pyarrow.array([123456789] * N, pyarrow.duration("ns")),
    "time": lambda: pyarrow.array([1] * N, pyarrow.time64("ns")),
    "binary": lambda: pyarrow.array([b"\xff\x00"] * N),
    "fixed binary": lambda: pyarrow.array([b"ab"] * N, pyarrow.binary(2)),
    "dictionary": lambda: pyarrow.array(["a", "b", "a", None, "c", "a", "b"]).dictionary_encode(),
    "large text": lambda: pyarrow.array(["a"] * N, pyarrow.large_string()),
    "list": lambda: pyarrow.array([[1, None], [], None, [2], [3], [], [4]]),
    "fixed list": lambda: pyarrow.array([[1, 2]] * N, pyarrow.list_(pyarrow.int32(), 2)),
    "struct": lambda: pyarrow.array([{"a": 1, "b": {"c": "x"}}] * N),
    "map": lambda: pyarrow.array([[("a", 1)]] * N, pyarrow.map_(pyarrow.string(), pyarrow.int64())),
    "nothing": lambda: pyarrow.nulls(N),
}


@pytest.mark.parametrize("name", ARROW)
@pytest.mark.parametrize("group", [1, 5])
def test_parquet(name: str, group: int, tmp_path: Path) -> None:
    source = tmp_path / "rows.parquet"
    text = pyarrow.field("text", pyarrow.string(), nullable=False, metadata={b"k": b"v"})
    schema = pyarrow.schema([text, ("x", ARROW[name]().type)], metadata={b"who": b"me"})
    table = pyarrow.table([[f"text {i}" for i in range(N)], ARROW[name]()], schema=schema)
    pyarrow.parquet.write_table(table, source, row_group_size=group)
    out = annotated(source, 3, tmp_path / "out.parquet")
    given, written = pyarrow.parquet.read_table(source), pyarrow.parquet.read_table(out)
    assert written.select(["text", "x"]).equals(given, check_metadata=True)
    assert written.schema.names == ["text", "x", *(c.name for c in COLUMNS)]
    assert written.column("probabilities").to_pylist() == [CELLS[2]] * N
    with pyarrow.parquet.ParquetFile(out) as file:
        assert file.num_row_groups == 1, "parts are put together"


def test_parquet_with_a_name_twice(tmp_path: Path) -> None:
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    for read in (lambda path: next(windows(path, 2)), rows_of):
        with pytest.raises(InputError, match=r'^rows.parquet: two columns have the name "text"; rename or drop one$'):
            read(tmp_path / "rows.parquet")


def test_parquet_that_is_not_utf8(tmp_path: Path) -> None:
    """A text that cannot be read is an error, and no gap."""
    bad = pyarrow.array([b"a", b"\xff"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": bad}), tmp_path / "rows.parquet")
    for read in (lambda path: list(windows(path, 1)), rows_of):
        with pytest.raises(InputError, match=r"rows.parquet: not UTF-8"):
            read(tmp_path / "rows.parquet")


@pytest.mark.parametrize("deep", [150, 400, 900, 20_000])
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_nested_too_deep_to_be_written(deep: int, suffix: str, tmp_path: Path) -> None:
    body = '{"text": ' + '[{"a": ' * deep + "1" + "}]" * deep + "}"
    source = tmp_path / f"rows{suffix}"
    source.write_text(f"[{body}]" if suffix == ".json" else body)
    with pytest.raises(InputError, match=r"^rows.jsonl?:( item)? ?1: (bad JSON: )?(lists or objects )?nested"):
        list(windows(source, 2))


@pytest.mark.parametrize("body", ["text,n\na,1\nb,2,3\n", "text,n\na,1\ntext,n\n", 'text,n\na,1\n"b,2\n'])
def test_a_row_that_cannot_be_read_is_named(body: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(body)
    with pytest.raises(InputError, match=r"^rows.csv:3: "):
        list(windows(tmp_path / "rows.csv", 2))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
def test_one_file_is_read_while_another_is_half_read(suffix: str, tmp_path: Path) -> None:
    """As after Ctrl-C in a notebook, which keeps what was going on."""
    bodies = {".json": '[{"text": "a"}, {"text": "b"}]', ".jsonl": '{"text": "a"}\n{"text": "b"}\n'}
    for name in ("one", "two"):
        if suffix == ".parquet":
            pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"]}), tmp_path / f"{name}{suffix}")
        else:
            (tmp_path / f"{name}{suffix}").write_text(bodies.get(suffix, "text\na\nb\n"))
    half = windows(tmp_path / f"one{suffix}", 1)
    next(half)
    reading = threading.Thread(
        target=lambda: sizes.extend(len(w.records) for w in windows(tmp_path / f"two{suffix}", 9))
    )
    sizes: list[int] = []
    reading.daemon = True
    reading.start()
    reading.join(20)
    assert sizes == [2]
    assert len(next(half).records) == 1
