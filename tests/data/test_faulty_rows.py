"""All rows that cannot be used are one error: the first three, how many, and what leaves them out; in every format and
verb, before a model is loaded."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import sentiment_rows, write_rows
from tests.loading import error, task
from tests.small_setting import make_setting, train_args
from zofo import InputError, evaluate
from zofo.cli import main as cli
from zofo.config.sections import DATA_SUFFIXES
from zofo.data import heads
from zofo.data.files import BadRows, read_file
from zofo.data.heads import check_rows

SKIP = "; mend or drop them, or leave them out: task.on_bad_row=skip"
FAULTY: list[dict[str, Any]] = [{"text": f"film {i}", "label": ("dull", "warm")[i % 2]} for i in range(40)]
for number, changes in {4: {"text": ""}, 9: {"label": ""}, 17: {"text": "", "label": ""}, 30: {"text": " "}}.items():
    FAULTY[number] = {**FAULTY[number], **changes}
WHY = {4: '"text" is empty', 9: '"label" is empty', 17: "the row is empty"}


def written(path: Path, rows: list[dict[str, Any]] = FAULTY) -> Path:
    suffix = path.name[path.name.index(".") :]
    if suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if ".json" not in suffix:
        out = io.StringIO()
        writer = csv.DictWriter(out, list(rows[0]), delimiter="\t" if ".tsv" in suffix else ",")
        writer.writeheader()
        writer.writerows(rows)
        text = out.getvalue()
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("suffix", DATA_SUFFIXES)
def test_every_kind_of_file(suffix: str, tmp_path: Path) -> None:
    """In the order of their lines, whatever the seed draws first."""
    path = written(tmp_path / f"rows{suffix}")
    first = 2 if ".csv" in suffix or ".tsv" in suffix else 1  # behind a header
    listed = "; ".join(f"rows{suffix}:{number + first}: {why}" for number, why in WHY.items())
    for seed in range(3):
        assert error(task(path), seed) == f"4 rows cannot be used: {listed}; rows{suffix}:{30 + first}: {WHY[4]}{SKIP}"
    more = [*FAULTY, *({"text": "", "label": "warm"} for _ in range(2))]
    assert error(task(written(path, more)), 0) == f"6 rows cannot be used: {listed} and 3 more{SKIP}"


def test_of_one_row_the_setting_is_named_too(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [*FAULTY[:4], *FAULTY[5:9], {"text": "a", "label": None}])
    assert error(task(path), 0) == ('rows.jsonl:9: no "label"; or leave out such rows: task.on_bad_row=skip')
    path.write_text('{"text": "a"}\n{"text"\n')
    with pytest.raises(InputError, match=r"^rows.jsonl:2: bad JSON: [^;]*$"):  # where there is no such setting
        read_file(path)


def test_faults_of_lines_labels_and_texts_are_said_at_once(tmp_path: Path) -> None:
    """Also of several files, and where no row of a label would be left."""
    lines = [json.dumps(row) for row in sentiment_rows(20)]
    lines[2], lines[8] = "{", '{"text": "a", "label": [1]}'
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    lines[5] = '{"text": "a", "label": "so-so"}'
    (tmp_path / "test.jsonl").write_text("\n".join(lines))
    said = error(task(tmp_path), 0)
    assert said.startswith("5 rows cannot be used: test.jsonl:3: bad JSON")
    assert '; test.jsonl:6: unknown label "so-so"' in said
    assert "test.jsonl:9: " in said
    assert " and 2 more; mend" in said
    rows = [{"text": "a", "label": "x"}, {"text": "b", "label": None}, {"text": "c", "label": None}]
    assert error(task(write_rows(tmp_path / "one.jsonl", rows)), 0).startswith(
        '2 rows cannot be used: one.jsonl:2: no "'
    )


def test_all_rows_alike_are_one_fault(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"text": 3, "label": "ab"[i % 2]} for i in range(30)])
    assert error(task(path), 0) == 'rows.jsonl:1: "text" must be text, not int (and so are all of the 30 rows)'
    path = write_rows(tmp_path / "rows.jsonl", [*FAULTY[:3], *({**row, "text": ""} for row in FAULTY[:8])])
    assert "on_bad_row" not in error(task(path), 0), "it would be refused: more than half"


def test_one_column_may_be_empty(tmp_path: Path) -> None:
    """As a prompt to go on from; a row without any value is none."""
    path = write_rows(tmp_path / "rows.jsonl", [{"prompt": ""}, {}, {"prompt": None}])
    with pytest.raises(InputError, match=r"^2 rows .*rows.jsonl:2: the row is empty; rows.jsonl:3: the row is empty"):
        read_file(path)
    path.write_text('{"prompt": ""}\n\n   \n')
    assert len(read_file(path)) == 1, "blank lines are none"


def test_too_long_rows(tmp_path: Path, tiny_model_dir: Path) -> None:
    rows = [{"prompt": f"say {i}", "completion": " yes" * (60 if i % 6 == 3 else 1)} for i in range(30)]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(InputError, match=r"^5 rows cannot be used: rows.jsonl:4: the answer has .* and 2 more; mend"):
        evaluate(str(tiny_model_dir), task=str(path), overrides=["model.max_length=40"])


def test_of_a_setting(tmp_path: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setting = make_setting(tmp_path / "small")
    file = setting.parent / "data" / "sort" / "train.jsonl"
    good = [json.loads(line) for line in file.read_text().splitlines()]
    write_rows(file, [*good, {**good[0], "output": ""}, {"input": "a"}])
    places = ["--task", str(setting), "--data", str(setting.parent / "data")]
    assert cli.run(train_args(tiny_model_dir, places, tmp_path / "out", "zero-shot")) == 2
    said = capsys.readouterr().err
    n = len(good)
    assert f'2 rows cannot be used: sort/train.jsonl:{n + 1}: "output" is empty; sort/train.jsonl:{n + 2}: no "' in said


def test_prompts_of_generate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_rows(tmp_path / "prompts.jsonl", [{"prompt": "a"}, {"prompt": 1}, {"prompt": ["b"]}, {"prompt": "c"}])
    assert cli.run(["generate", str(tmp_path), "--file", str(path)]) == 2
    said = capsys.readouterr().err
    assert said == (
        "error: 2 rows cannot be used: prompts.jsonl:2: prompt must be a text; prompts.jsonl:3: prompt must be a text; "
        "mend or drop them\n"
    )


def test_what_is_not_the_rows_own_is_said_at_once() -> None:
    bad = BadRows(False)
    with pytest.raises(InputError, match="no such column"):
        bad.refuse(InputError("films.yaml: no such column"), "rows.jsonl:3")


# --------------------------------------------------------------------------------------------- before a model is loaded


@pytest.mark.parametrize("verb", ["validate", "train", "train --dry-run", "memory", "eval"])
def test_every_verb_looks_at_all_rows(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model").mkdir()  # that no model could be loaded is not said, as none is
    rows = [*sentiment_rows(140), {"text": "a", "label": ""}]  # behind what `read_head` looks at
    path, name = str(write_rows(tmp_path / "rows.jsonl", rows)), verb.partition(" ")[0]
    args = ["--model", str(tmp_path / "model"), "--task", path, "--method", "mezo"]
    args += [] if name == "memory" else ["--output-dir", str(tmp_path / "out")]
    given = ["eval", str(tmp_path / "model"), "--task", path] if name == "eval" else [*verb.split(), *args]
    assert cli.run(given) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.removeprefix("error: ").removeprefix("task.name: ") == (
        'rows.jsonl:141: "label" is empty; mend or drop the row; or leave out such rows: task.on_bad_row=skip'
    )
    assert not (tmp_path / "out").exists()


def test_large_files_are_looked_at_in_part_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [*sentiment_rows(140), {"text": "a", "label": ""}])
    args = ["validate", "--model", "m", "--task", str(path), "--method", "mezo", "--output-dir", str(tmp_path / "out")]
    monkeypatch.setattr(heads, "MOST", 100)
    monkeypatch.setattr("zofo.api.configure.MOST", 100)
    assert cli.run(args) == 0
    assert f"note: {path}: 0 MiB of rows, of which the first 100 of a file were looked at; a run reads all" in (
        capsys.readouterr().err
    )
    path.write_text("{\n" + path.read_text())
    assert cli.run(args) == 2
    assert "rows.jsonl:1: bad JSON" in capsys.readouterr().err


def test_rows_that_a_run_does_not_draw_stop_nothing(tmp_path: Path) -> None:
    """The rows are drawn as the run's seed does."""
    path = write_rows(tmp_path / "rows.jsonl", [*sentiment_rows(200), {"text": "", "label": "great"}])
    few: dict[str, Any] = {"train_examples": 20, "dev_examples": 5, "test_examples": 5}
    refused = []
    for seed in range(30):
        try:
            check_rows(task(path, **few), seed)
        except InputError:
            refused.append(seed)
    assert 0 < len(refused) < 15
    assert all(error(task(path, **few), seed) for seed in refused)


@pytest.mark.parametrize(
    "changes", [{}, {"apply_chat_template": True}, {"apply_chat_template": True, "system": "Be kind."}]
)
def test_chats_are_looked_at_without_a_tokenizer(changes: dict[str, Any], tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "say"}, {"role": "assistant", "content": "yes"}]
    rows: list[dict[str, Any]] = [{"messages": [{"role": "user", "content": f"say {i}"}, turns[1]]} for i in range(30)]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    assert check_rows(task(path, **changes), 0) == ""
    write_rows(path, [*rows, {"messages": turns[:1]}, {"messages": "say"}])
    with pytest.raises(InputError, match=r"^2 rows cannot be used: rows.jsonl:31: the last of "):
        check_rows(task(path, **changes), 0)
