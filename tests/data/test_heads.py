"""The head of a local file is looked at before anything is loaded: the error that training has, whatever its size."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import sentiment_rows, write_rows
from tests.loading import error, task
from zofo.cli import main as cli
from zofo.config.sections import DATA_SUFFIXES, data_suffix
from zofo.data import formats, load_task
from zofo.data.heads import missing_files

ROWS = [{"text": f"film {i}", "label": "ab"[i % 2]} for i in range(60)]


def renamed(names: dict[str, str], rows: list[dict[str, Any]] = ROWS) -> list[dict[str, Any]]:
    return [{names.get(key, key): value for key, value in row.items()} for row in rows]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows in the form that the name says."""
    suffix = data_suffix(path) or ""
    path.parent.mkdir(parents=True, exist_ok=True)
    if suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    delimiter = "\t" if ".tsv" in suffix else ","
    lines = [delimiter.join(map(str, fields)) for fields in [list(rows[0]), *(row.values() for row in rows)]]
    text = "\n".join([json.dumps(row) for row in rows] if ".jsonl" in suffix else lines) + "\n"
    text = json.dumps(rows) if ".json" in suffix and ".jsonl" not in suffix else text
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("suffix", DATA_SUFFIXES)
def test_wrong_columns_of_every_kind_of_file(suffix: str, tmp_path: Path) -> None:
    """By themselves, in a directory, beside right ones, as a known task's and by the hub's names."""
    message = 'train{}: no column "text"; has: txt, label; did you mean "txt" for it? rename it to "text"'
    path = write(tmp_path / "own" / f"train{suffix}", renamed({"text": "txt"}))
    for name in (path, tmp_path / "own"):
        assert missing_files(task(name)) == [f"name: {message.format(suffix)}"]
        assert error(task(name), 0) == message.format(suffix)
    write(path, ROWS)
    other = write(tmp_path / "own" / f"test{suffix}", renamed({"label": "labels"}))
    assert missing_files(task(tmp_path / "own")) == [f"name: {error(task(tmp_path / 'own'), 0)}"]
    other.unlink()
    assert missing_files(task(tmp_path / "own"), trains=True) == []
    for data in (path, tmp_path / "own", write(tmp_path / f"train-00000-of-00001{suffix}", ROWS).parent):
        (line,) = missing_files(task("sst2", data=str(data)))
        assert line == f"data: {error(task('sst2', data=str(data)), 0)}"
        assert 'sst2.yaml: template "default": no column "sentence" in train' in line


REFUSED: list[tuple[list[dict[str, Any]], dict[str, Any], str]] = [
    (renamed({"text": "txt", "label": "lbl"}), {}, 'did you mean "txt" for "text" and "lbl" for "label"? rename them'),
    (renamed({"text": "Text"}), {}, 'no column "text"; has: Text, label; did you mean "Text" for it?'),
    (renamed({"label": " label"}), {}, 'has: text,  label; did you mean " label" for it? rename it to "label"'),
    ([{"txt": "a", "label": "b", "prompt": "c"}], {}, 'no column "text"; has: txt, label, prompt; did you mean "txt"'),
    ([{"prompt": "a", "completions": "b"}], {}, 'did you mean "completions" for it? rename it to "completion"'),
    ([{"message": "a"}], {}, 'has: message; did you mean "message" for it? rename it to "messages"'),
    ([{"one": 1, "two": 2}], {}, "needs the columns text and label, or prompt and completion, or messages; has: one"),
    ([{"prompt": "a", "completion": "b"}], {"choices": ["a", "b"]}, "choices are for text + label"),
    ([{"prompt": "a", "completion": "b"}], {"objective": "options"}, "has completions, no options; use lm"),
    (ROWS, {"metric": "loss"}, '"loss" does not measure this task'),
    (ROWS, {"template": "plane"}, 'not "plane"; did you mean "plain"?'),
]


@pytest.mark.parametrize(("rows", "changes", "expected"), REFUSED)
def test_the_same_words_as_training(
    rows: list[dict[str, Any]], changes: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    cfg = task(write_rows(tmp_path / "rows.jsonl", rows), **changes)
    (line,) = missing_files(cfg)
    told = error(cfg, 0)
    assert line in (f"name: {told}", told.removeprefix("task."))
    assert expected in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", b""),
        ("rows.csv", b"text,label\n"),
        ("rows.csv", b"text;label\na;b\n"),
        ("rows.csv", b'text,label\n"a,b\n'),
        ("rows.csv", b"text,text\na,b\n"),
        ("rows.csv", b"text,label\na,b\nc\n"),
        ("rows.jsonl", b"\n\n"),
        ("rows.jsonl", b'{"text": "a" "label": 1}\n'),
        ("rows.jsonl", b'{"text": "caf\xe9", "label": 1}\n'),
        ("rows.jsonl", gzip.compress(b"{}", mtime=0)),
        ("rows.jsonl.gz", b"{}"),
        ("rows.jsonl.gz", gzip.compress(json.dumps(ROWS[0]).encode() * 50, mtime=0)[:40]),
        ("rows.parquet", b"PAR1 not quite"),
        ("rows.tsv", b"version https://git-lfs.github.com/spec/v1\n"),
    ],
)
def test_what_cannot_be_read(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert missing_files(task(path)) == [f"name: {error(task(path), 0)}"]


def test_an_empty_parquet_file(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array([], "string")}), path)
    assert missing_files(task(path)) == [f"name: {path}: no rows"] == [f"name: {error(task(path), 0)}"]


def test_rows_to_train_on(tmp_path: Path) -> None:
    """Test rows are enough to evaluate a plain model, and not to train one; a task without a place on the hub needs
    data either way."""
    write_rows(tmp_path / "own" / "test.jsonl", ROWS)
    own, known = task(tmp_path / "own"), task("sst2", data=str(tmp_path / "known"))
    write_rows(tmp_path / "known" / "test.jsonl", renamed({"text": "sentence"}, sentiment_rows(30)))
    for cfg in (own, known):
        assert missing_files(cfg) == []
        (line,) = missing_files(cfg, trains=True)
        assert line.partition(": ")[2] == error(cfg, 0)
    (tmp_path / "none").mkdir()
    assert missing_files(task(tmp_path / "none")) == [f"name: {error(task(tmp_path / 'none'), 0)}"]
    (line,) = missing_files(task("class-to-class", data=str(tmp_path / "none")))
    assert line == f"data: {error(task('class-to-class', data=str(tmp_path / 'none')), 0)}"


# --------------------------------------------------------------------------------------------- what training accepts


LATE = [{"text": row["text"]} for row in ROWS[:20]] + ROWS  # a column that the first rows lack
ACCEPTED: list[tuple[str, str, dict[str, Any]]] = [
    ("rows.jsonl", "\ufeff\n\n" + "".join(json.dumps(row) + "\n" for row in ROWS), {}),
    ("rows.csv", "text,label\n" + "".join(f'"film\n\n{i}, long",{"ab"[i % 2]}\n' for i in range(300)), {}),
    ("rows.csv", "\n\nlabel,id,text\n" + "".join(f"{'ab'[i % 2]},{i},film {i}\n" for i in range(300)), {}),
    ("rows.jsonl", "".join(json.dumps(row) + "\n" for row in LATE), {"on_bad_row": "skip"}),
    ("rows.jsonl", "[1]\n" * 9 + "".join(json.dumps(row) + "\n" for row in ROWS), {"on_bad_row": "skip"}),
    ("rows.jsonl", "x\n" * 150 + "".join(json.dumps(row) + "\n" for row in ROWS * 5), {"on_bad_row": "skip"}),
]


@pytest.mark.parametrize(("name", "content", "changes"), ACCEPTED)
def test_what_training_accepts(name: str, content: str, changes: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content, "utf-8")
    assert missing_files(task(path, **changes), trains=True) == []
    assert load_task(task(path, **changes), 0).train


def test_no_more_is_read_than_the_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong behind it costs nothing here; rows too long for it decide nothing."""
    lines = [json.dumps(row) + "\n" for row in (ROWS * 2)[:100]]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(lines) + "[broken\n" * 10)
    assert missing_files(task(path)) == []
    path.write_text("".join(lines[:99]) + "[broken\n")
    assert missing_files(task(path)) == [
        "name: rows.jsonl:100: bad JSON: Expecting value at column 2; or leave out such rows: task.on_bad_row=skip"
    ]
    table = tmp_path / "rows.csv"
    table.write_text("text,label\n" + "a,b\n" * 100 + '"never closed,b\n' + "c,d\n" * 1000)
    assert missing_files(task(table)) == []
    assert "a quote is opened and never closed" in error(task(table), 0)

    monkeypatch.setattr(formats.Head, "__init__", lambda self: self.__dict__.update(characters=500))
    for late in (path, table, write(tmp_path / "rows.csv.gz", renamed({"text": "txt"}))):
        late.write_bytes(late.read_bytes())
        assert missing_files(task(late)) == []
    table.write_text('text,label\n"' + "never closed" * 1000)
    assert missing_files(task(table)) == []


def test_how_much_of_a_big_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    lines = formats.Head.lines

    def counted(self: formats.Head, file: Any) -> Any:
        for line in lines(self, file):
            read.append(len(line))
            yield line

    monkeypatch.setattr(formats.Head, "lines", counted)
    for name in ("rows.jsonl", "rows.csv", "rows.tsv.gz"):
        path = write(tmp_path / name, ROWS * 400)
        read.clear()
        assert missing_files(task(path)) == []
        assert 100 <= len(read) <= 101, name


# ------------------------------------------------------------------------------------------------------- every verb

VERBS = [["validate"], ["train"], ["train", "--dry-run"], ["memory"]]


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_says_it_before_a_model_is_loaded(
    verb: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").mkdir()  # that no model could be loaded is not said, as none is
    path = write(tmp_path / "rows.csv", renamed({"text": "txt"}))
    out = [] if verb == ["memory"] else ["--output-dir", str(tmp_path / "out")]
    assert cli.run([*verb, "--model", str(tmp_path / "model"), "--task", str(path), "--method", "mezo", *out]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line == (
        'error: task.name: rows.csv: no column "text"; has: txt, label; did you mean "txt" for it? rename it to "text"'
    )
    assert not (tmp_path / "out").exists()
