"""`predict_file`: every row in its order with all its columns, whatever the file; what cannot be is refused."""

from __future__ import annotations

import csv
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from tests.conftest import read_rows, write_rows
from tests.unanswered import ROWS, names, predicted, sentiment_run, small_parts
from zofo import InputError, predict_file
from zofo.data.files import read_file
from zofo.eval.predictor import Answer, Predictor

LABELS = ("great", "terrible")
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only."""
    return sentiment_run(tiny_model_dir, tmp_path_factory.mktemp("predicted"))


@pytest.fixture(autouse=True)
def four_rows_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", ROWS)


@pytest.fixture(scope="module")
def uncut(run: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return predicted(run, tmp_path_factory.mktemp("uncut"))


# ------------------------------------------------------------------------------------------------------------ each kind


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)


KINDS: dict[str, Callable[[Path, list[dict[str, Any]]], Any]] = {
    ".jsonl": write_rows,
    ".json": lambda path, rows: path.write_text(json.dumps(rows, indent=2)),
    ".csv": write_csv,
    ".tsv": write_csv,
    ".parquet": lambda path, rows: pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(rows), path, row_group_size=max(3, len(rows) // 8)
    ),
}


def write_kind(path: Path, rows: list[dict[str, Any]]) -> None:
    KINDS[path.suffix](path, rows)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_keeps_order_and_columns(kind: str, run: Path, uncut: bytes, tmp_path: Path) -> None:
    write_kind(tmp_path / f"rows{kind}", ROWS)
    out = tmp_path / "not" / "there" / f"out{kind}"
    summary = predict_file(run, tmp_path / f"rows{kind}", out)
    expected = [json.loads(line) for line in uncut.splitlines()]
    written = [record.row for record in read_file(out)]
    as_text = kind in (".csv", ".tsv")
    assert [list(row) for row in written] == [list(row) for row in expected]
    for row, wanted in zip(written, expected, strict=True):
        for column, value in wanted.items():
            if isinstance(value, float):
                assert float(row[column]) == pytest.approx(value, abs=1e-6)
            else:
                assert row[column] == (str(value) if as_text else value)
    counts = summary["predictions"]
    assert summary == {"rows": 11, "output": str(out), "predictions": counts}
    assert counts == {label: [row["prediction"] for row in expected].count(label) for label in counts}
    assert sum(counts.values()) == 11
    assert names(out.parent) == [out.name], "nothing is left beside it"


@pytest.mark.parametrize("count", [1, 4, 5])
def test_few_rows(count: int, run: Path, uncut: bytes, tmp_path: Path) -> None:
    predict_file(run, write_rows(tmp_path / "rows.jsonl", ROWS[:count]), tmp_path / "out.jsonl")
    assert [row["id"] for row in read_rows(tmp_path / "out.jsonl")] == list(range(count))


@pytest.mark.parametrize("body", ["", "\n\n", "[]", "text\n"])
@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv"])
def test_no_rows(kind: str, body: str, run: Path, tmp_path: Path) -> None:
    if (kind == ".csv") == (body == "[]") or (body == "text\n" and kind != ".csv"):
        return
    (tmp_path / f"rows{kind}").write_text(body)
    with pytest.raises(InputError, match=r"no rows|expected a list|expected one JSON object"):
        predict_file(run, tmp_path / f"rows{kind}", tmp_path / f"out{kind}")
    assert names(tmp_path) == [f"rows{kind}"]


def test_rows_too_long_for_a_look_at_the_head(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred of them are more than what decides the columns of a training file without reading it."""
    monkeypatch.setattr("zofo.data.formats.Head.characters", 2**12)
    rows = write_rows(tmp_path / "rows.jsonl", [{"text": "a film", "document": "x" * 2000} for _ in range(9)])
    assert predict_file(run, rows, tmp_path / "out.jsonl")["rows"] == 9


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("row", [{"text": ""}, {"text": 3}, {"other": "x"}, {"text": None}, {"text": "\\n"}])
def test_a_row_that_cannot_be_used(row: dict[str, Any], run: Path, tmp_path: Path) -> None:
    """Far behind the first: refused before anything is written, or kept without an answer."""
    rows: list[dict[str, Any]] = [{"text": f"film {i}"} for i in range(8)] + [row, {"text": "the last"}]
    rows[8]["text"] = rows[8].get("text") if row.get("text") != "\\n" else " \n"
    file, out = write_rows(tmp_path / "rows.jsonl", rows), tmp_path / "out" / "out.jsonl"
    with pytest.raises(InputError, match=r"^rows.jsonl:9: "):
        predict_file(run, file, out)
    assert not out.parent.exists()
    predict_file(run, file, out, overrides=["task.on_bad_row=skip"])
    written = read_rows(out)
    assert [{k: v for k, v in r.items() if k in g} for r, g in zip(written, rows, strict=True)] == rows
    assert [row["prediction"] is None for row in written] == [i == 8 for i in range(10)]
    assert written[8]["probability_great"] is None


def test_skipped_rows_are_counted_once(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [{"text": ("a film", "")[i % 3 == 2]} for i in range(12)])
    summary = predict_file(run, file, tmp_path / "out.jsonl", overrides=["task.on_bad_row=skip"])
    assert sum(summary["predictions"].values()) == 8
    assert summary["bad_rows"] == {'"text" is empty': 4}
    assert [r.getMessage() for r in caplog.records if "left out" in r.getMessage()] == [
        'rows.jsonl: 4 rows left out: "text" is empty (the first: rows.jsonl:3: "text" is empty; mend or drop the row)'
    ]


def test_more_than_half_skipped(run: Path, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [{"text": ("a film", "")[i > 3]} for i in range(12)])
    with pytest.raises(InputError, match=r"would leave out 8 of 12 rows, more than half"):
        predict_file(run, file, tmp_path / "out.jsonl", overrides=["task.on_bad_row=skip"])
    assert names(tmp_path) == ["rows.jsonl"]


def test_columns_of_ours_that_are_there(run: Path, tmp_path: Path) -> None:
    for column in ("prediction", "probability_great"):
        file = write_rows(tmp_path / "rows.jsonl", [*ROWS[:6], {"text": "x", column: 1}])
        with pytest.raises(InputError, match=rf"^rows.jsonl:7: has a column {column} already; --prefix TEXT puts"):
            predict_file(run, file, tmp_path / "out.jsonl")
    predict_file(run, file, tmp_path / "out.jsonl", prefix="zofo_")
    (last,) = read_rows(tmp_path / "out.jsonl")[-1:]
    assert list(last) == ["text", "probability_great", "zofo_prediction", "zofo_probability_great",
                          "zofo_probability_terrible"]  # fmt: skip


def test_paths_that_cannot_be(run: Path, rows: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "there.jsonl").write_text("mine")
    (tmp_path / "other.txt").write_text("x")
    (tmp_path / "link.jsonl").symlink_to(rows)
    before = names(tmp_path)
    for file, out, words in [
        (rows, "rows.jsonl", "is the file that is read"),
        (rows, "link.jsonl", "is the file that is read"),
        (rows, "folder.jsonl", "is a directory"),
        (rows, "there.jsonl", "is there already; --overwrite replaces it"),
        (rows, "out.csv", r"in its own kind; name it out\.jsonl"),
        (rows, "out", r"in its own kind; name it out\.jsonl"),
        (tmp_path / "none.jsonl", "out.jsonl", "no such file"),
        (tmp_path, "out.jsonl", "no such file|unknown kind"),
        (tmp_path / "other.txt", "out.txt", "unknown kind of file"),
    ]:
        with pytest.raises(InputError, match=words):
            predict_file(run, file, tmp_path / out)
    with pytest.raises((InputError, OSError)):
        predict_file(run, rows, rows / "out.jsonl")
    assert names(tmp_path) == before
    predict_file(run, rows, tmp_path / "there.jsonl", overwrite=True)
    assert len(read_rows(tmp_path / "there.jsonl")) == 11


@pytest.mark.parametrize("kind", [".parquet", *(pytest.param(k, marks=SLOW) for k in (".jsonl", ".json", ".csv"))])
def test_memory_does_not_grow_with_the_rows(
    kind: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all but the model, which answers at once here; a third of the rows is skipped."""
    for module in ("zofo.api.answered_parts", "zofo.api.predict_file"):
        monkeypatch.setattr(f"{module}.ROWS", 64)
    monkeypatch.setattr(Predictor, "check", lambda *_: None)
    monkeypatch.setattr(
        Predictor, "__call__", lambda self, examples, *_: [Answer("great", LABELS, (0.5, 0.5)) for _ in examples]
    )
    peaks = []
    for count in (500, 500, 4000):  # the first warms up
        rows = [{"text": f"film {i} " * 20 if i % 3 else "", "id": i} for i in range(count)]
        write_kind(tmp_path / f"rows{kind}", rows)
        del rows
        tracemalloc.start()
        out = tmp_path / f"out{kind}"
        predict_file(run, tmp_path / f"rows{kind}", out, overrides=["task.on_bad_row=skip"], overwrite=True)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] + 300_000, "of 3,500 rows more"
