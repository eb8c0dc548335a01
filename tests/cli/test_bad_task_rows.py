"""Bad rows of a setting's tasks: file and line in one line of error, before anything is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.setting_files import write_rows
from tests.small_setting import make_setting, mood, quiz
from zofo.data.multitask.pool import open_pool

Refusal = Callable[..., str]
BAD_ROWS: list[tuple[dict[str, Any] | str, list[str]]] = [
    ({"sentence": "warm", "label": "great"}, ['no "input"', "task, input, output and options", "sentence, label"]),
    ({"input": "warm", "output": "great", "option": ["great", "terrible"]}, ['no "options"', 'did you mean "option"']),
    ({"input": "warm", "output": "great", "options": ["great"]}, ["one option"]),
    ({"input": "warm", "output": "grate", "options": ["bad", "great"]}, ['"grate" is none of', 'mean "great"']),
    ({"input": "warm", "output": "great", "options": ["great", "great"]}, ['"great" occurs twice']),
    ({"input": "warm", "output": "great", "options": "great"}, ['"options" must be a list']),
    ({"input": "warm", "output": ["great"], "options": ["terrible", "great"]}, ['"output" must be a text']),
    ({"input": "warm", "output": "", "options": ["terrible", "great"]}, ['"output" is empty']),
    ({"input": "warm", "output": "great", "options": []}, ["options"]),
    ({"task": "elsewhere", "input": "a", "output": "great", "options": ["terrible", "great"]}, ['"elsewhere"']),
    ("{not json", ["JSON"]),
    ("[1, 2]", []),
]


@pytest.mark.parametrize("where", ["mood/train.jsonl", "film/test.jsonl"])
@pytest.mark.parametrize(("row", "said"), BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_a_bad_row_is_named_with_file_and_line(
    row: dict[str, Any] | str, said: list[str], where: str, spoilt: Path, refusal: Refusal
) -> None:
    """Of a training task, and of a target's test rows: before the first step."""
    task, _, name = where.partition("/")
    folder = spoilt.parent / "data" / task
    shutil.rmtree(folder)
    rows = mood(task, 30, 3)
    write_rows(folder / "train.jsonl", rows)
    write_rows(folder / "test.jsonl", rows[:12])
    path = folder / name
    lines = path.read_text().splitlines()
    lines[6] = row if isinstance(row, str) else json.dumps(row)
    path.write_text("\n".join(lines) + "\n")
    error = refusal("train", spoilt)
    assert f"{where}:7" in error
    assert len(error.splitlines()) == 1
    for text in said:
        assert text in error


def with_an_odd_row(setting: Path, task: str, name: str) -> Path:
    """A task of 30 rows that share their options, of one file but row 7. Returns its folder."""
    folder = setting.parent / "data" / task
    shutil.rmtree(folder)
    rows = mood(task, 30, 3)
    for file in ("train.jsonl", "test.jsonl"):
        write_rows(folder / file, rows)
    rows[6] = {"input": "warm", "output": "good", "options": ["bad", "good"]}
    write_rows(folder / name, rows)
    return folder


def test_one_test_row_with_options_of_its_own(spoilt: Path, refusal: Refusal) -> None:
    with_an_odd_row(spoilt, "film", "test.jsonl")
    error = refusal("train", spoilt)
    assert "film/test.jsonl:7" in error
    assert "terrible, great" in error


def test_one_train_row_with_options_of_its_own(spoilt: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It makes another kind of task of it, which may be meant: so it is said, with the row."""
    pool = open_pool(with_an_odd_row(spoilt, "mood", "train.jsonl").parent, "mood")
    assert pool.kind == "multiple-choice"
    for text in ("mood/train.jsonl:7", "bad, good", "29 of 30 rows have great, terrible"):
        assert text in caplog.text


@pytest.mark.parametrize("verb", ["train", "meta-test"])
def test_a_bad_row_in_metaicls_form(verb: str, spoilt: Path, refusal: Refusal) -> None:
    """The file's own name says the task; it is read before anything is measured or written."""
    path = spoilt.parent / "data" / "film" / "film_16_13_test.jsonl"
    rows = mood("film", 12, 1)
    rows[2]["output"] = "no such"
    write_rows(path, rows)
    assert "film_16_13_test.jsonl:3" in refusal(verb, spoilt)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "train.jsonl").write_text(""), ["quiz/train.jsonl", "no rows"]),
        (lambda folder: [p.unlink() for p in folder.iterdir()], ["data/quiz", "train.jsonl", "quiz_16_100_test.jsonl"]),
        (lambda folder: write_rows(folder / "quiz_16_100_test.jsonl", quiz("quiz", 4, 1)), ["two forms"]),
        (lambda folder: write_rows(folder / "film_16_100_test.jsonl", quiz("film", 4, 1)), ["film"]),
    ],
    ids=["empty", "no files", "both forms", "another task's file"],
)
def test_a_bad_folder(spoil: Callable[[Path], Any], said: list[str], spoilt: Path, refusal: Refusal) -> None:
    spoil(spoilt.parent / "data" / "quiz")
    error = refusal("train", spoilt)
    for text in said:
        assert text in error


@pytest.mark.parametrize("verb", ["train", "meta-test"])
def test_two_tasks_of_one_name(verb: str, spoilt: Path, refusal: Refusal) -> None:
    """On the disk and in the file; - and _ are the same."""
    setting = make_setting(spoilt.parent.parent / "two", target=["my-quiz"], unseen_domain=None)
    for name in ("my-quiz", "my_quiz"):
        shutil.copytree(spoilt.parent / "data" / "quiz", setting.parent / "data" / name)
    error = refusal(verb, setting)
    assert "my-quiz" in error
    assert "my_quiz" in error
    assert "keep one" in error
