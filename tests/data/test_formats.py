"""What a file of rows may be: kinds, spellings, and what is refused with file and line."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, sentiment_rows
from tests.loading import error, task
from zofo.config.sections import DATA_SUFFIXES, TaskConfig, data_suffix, kind_of_task
from zofo.data import load_task
from zofo.data.formats import READERS
from zofo.data.heads import missing_files
from zofo.data.task import find_spec

ROWS = sentiment_rows(24)


def as_text(rows: list[dict[str, Any]], delimiter: str) -> str:
    return "".join(delimiter.join(fields) + "\n" for fields in [["text", "label"], *(row.values() for row in rows)])


def write(path: Path) -> Path:
    """ROWS in the form that the name says."""
    suffix = data_suffix(path) or ""
    if suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
        return path
    rows = [{"text": row["text"].replace(",", ";"), "label": row["label"]} for row in ROWS]
    delimiter = "\t" if ".tsv" in suffix else ","
    text = "".join(json.dumps(row) + "\n" for row in rows) if ".jsonl" in suffix else as_text(rows, delimiter)
    text = json.dumps(rows, indent=1) if ".json" in suffix and ".jsonl" not in suffix else text
    path.write_bytes(gzip.compress(text.encode(), mtime=0) if suffix.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("suffix", DATA_SUFFIXES)
@pytest.mark.parametrize("spelling", [str.lower, str.upper, str.title])
def test_every_kind_of_file_by_every_way(suffix: str, spelling: Callable[[str], str], tmp_path: Path) -> None:
    """By itself, in a directory, and as what the validation takes: one function decides all of them."""
    path = write(tmp_path / f"train{spelling(suffix)}")
    for name in (path, tmp_path):
        assert TaskConfig(name=str(name)).problems() == []
        assert missing_files(TaskConfig(name=str(name))) == []
        assert find_spec(str(name)) is None
        data = load_task(task(name), 0)
        assert (len(data.train) + len(data.dev) + len(data.test), data.labels) == (24, ("great", "terrible"))
    gone = TaskConfig(name=str(tmp_path / f"gone{spelling(suffix)}"))
    assert missing_files(gone) == [f"name: no such file: {gone.name}"]


def test_the_list_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tuple(READERS) == DATA_SUFFIXES
    for page in ("docs/tasks.md", "docs/add_a_task.md"):
        text = (ROOT / page).read_text("utf-8")
        assert all(f"`{suffix}`" in text for suffix in DATA_SUFFIXES), page
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert [kind_of_task(n) for n in ("mine", "./x", "a/b", "sst2", "class-to-class", "t.YAML", "yours")] == [
        *("rows", "rows", "rows", "known", "known", "file", "unknown")
    ]
    (problem,) = TaskConfig(name="yours").problems()
    assert ", ".join(DATA_SUFFIXES) in problem
    assert missing_files(TaskConfig(name="./x")) == ["name: no such file or directory: ./x"]


TABLE = as_text([{"text": f"film {i}", "label": "good" if i % 2 else "bad"} for i in range(12)], ",")
CHOICES = {"choices": ["bad", "good"]}
REFUSED = [  # (file's name, content, changes, the error)
    ("a.csv", TABLE.replace(",", ";"), {}, "a.csv:1: found semicolons between the columns' names"),
    ("a.csv", TABLE.replace(",", "\t"), {}, "a.csv:1: found tabs between the columns' names"),
    ("a.tsv", TABLE, {}, "a.tsv:1: found commas between the columns' names"),
    ("a.csv", TABLE + '"x,good\n', {}, "a.csv:14: bad CSV: a quote is opened and never closed"),
    ("a.csv", TABLE + '"x" y,good\n', {}, "a.csv:14: bad CSV: "),
    ("a.csv", TABLE + "x,good,y\n", {}, "a.csv:14: more fields than the header's 2"),
    ("a.csv", TABLE + "x\n", {}, "a.csv:14: fewer fields than the header's 2"),
    ("a.csv", TABLE + "text,label\n", {}, "a.csv:14: repeats the header; drop the row"),
    ("a.csv", TABLE.replace("label", "text", 1), {}, 'a.csv:1: two columns have the name "text"'),
    ("a.csv", TABLE.partition("\n")[2], {}, "a.csv: needs the columns text and label"),
    ("a.csv", TABLE + ",good\n", {}, 'a.csv:14: "text" is empty; mend or drop the row'),
    ("a.csv", TABLE + "x,\n", {}, 'a.csv:14: "label" is empty'),
    ("a.csv", TABLE + "x,0.5\n", CHOICES, 'a.csv:14: unknown label "0.5"; known: bad, good'),
    ("a.csv", TABLE + "x,2\n", CHOICES, 'a.csv:14: unknown label "2"; known: bad, good'),
    ("a.jsonl", '{"text": "x", "text": "y", "label": "a"}\n', {}, 'a.jsonl:1: bad JSON: the key "text" is given twice'),
    ("a.jsonl", '{"text": "\\ud83d", "label": "a"}\n', {}, 'a.jsonl:1: "text" holds a lone surrogate'),
    ("a.jsonl", '{"text": ["a", {"b": "\\uDC00"}]}\n', {}, 'a.jsonl:1: "text" holds a lone surrogate'),
    ("a.jsonl", "[" * 10_000 + "\n", {}, "a.jsonl:1: bad JSON: lists or objects nested too deep to be read"),
    ("a.jsonl", '{"label": ' + "7" * 5_000 + "}\n", {}, "a.jsonl:1: bad JSON: a number of more than 4300 digits"),
    ("a.jsonl", "version https://git-lfs.github.com/spec/v1\n", {}, "a.jsonl: is a git-lfs pointer and not the data"),
    ("a.jsonl.gz", "{}\n", {}, "is not compressed, though its name ends in .gz; rename it to a.jsonl"),
    ("a.jsonl", gzip.compress(b"{}", mtime=0), {}, "is compressed by gzip, which its name does not say; rename it to"),
    ("a.csv.gz", gzip.compress(TABLE.encode() * 99, mtime=0)[:-20], {}, "a.csv.gz: "),
    ("a.parquet", b"PAR1" + bytes(40) + b"PAR1", {}, "a.parquet: not a readable Parquet file ("),
    ("a.parquet", TABLE, {}, "a.parquet: not a readable Parquet file ("),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "changes", "expected"), REFUSED)
def test_what_is_refused(name: str, content: str | bytes, changes: Any, expected: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    text = error(task(tmp_path / name, **changes), 0)
    assert expected in text
    assert "\n" not in text


@pytest.mark.parametrize("labels", [("True", "False"), ("TRUE", "false"), ("1.0", "0.0"), ("1", "0"), (True, False)])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_booleans_and_numbers_count_into_choices(labels: tuple[Any, Any], kind: str, tmp_path: Path) -> None:
    path, rows = tmp_path / f"a.{kind}", [{"text": f"film {i}", "label": labels[i % 2]} for i in range(20)]
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(as_text([{**row, "label": str(row["label"])} for row in rows], ","))
    data = load_task(task(path, choices=["no", "yes"]), 0)
    for example in data.train + data.dev + data.test:
        assert example.gold == (1 - int(example.prompt.rpartition(" ")[2]) % 2,)


def test_long_fields_leave_the_process_its_limit(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(TABLE + "x" * 300_000 + ",good\n")
    before = csv.field_size_limit()
    data = load_task(task(tmp_path / "a.csv"), 0)
    assert max(len(e.prompt) for e in data.train + data.dev + data.test) == 300_000
    assert csv.field_size_limit() == before


def test_texts_that_meet_badly_are_said(write_jsonl: Any, caplog: pytest.LogCaptureFixture) -> None:
    def said(*rows: dict[str, str]) -> str:
        caplog.clear()
        load_task(task(write_jsonl("rows.jsonl", [{k: v + str(i) * (k == "prompt") for k, v in row.items()}
                                                  for i in range(10) for row in rows])), 0)  # fmt: skip
        return caplog.text

    assert "" == said({"prompt": "film:", "completion": "great"}) == said({"prompt": "it is", "completion": " great"})
    assert said({"prompt": "\u6620\u753b", "completion": "\u597d"}) == ""
    load_task(task(write_jsonl("a.jsonl", [{"prompt": f"{i} film", "completion": "great"} for i in range(9)])), 0)
    assert "runs together with its completion" in caplog.text
    load_task(task(write_jsonl("a.jsonl", [{"prompt": f"{i} ", "completion": "great"} for i in range(9)])), 0)
    assert "the text before the answer ends in a blank" in caplog.text
    assert "label or completion ends in a blank" in said({"prompt": "a", "completion": " great "})
