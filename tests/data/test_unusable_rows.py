"""Rows that a task file cannot use: one line, with the file, the line and the task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.loading import error, task
from tests.task_files import spec_of
from zofo.data import load_task
from zofo.errors import InputError

Write = Callable[[str, list[dict[str, Any]]], Path]
BAD_ROWS = [
    ("sst2", {"label": -1}, "unknown label -1; known: 0 negative, 1 positive"),  # what the hub hides labels with
    ("sst2", {"label": "neutral"}, "unknown label 'neutral'; known: 0 negative, 1 positive"),
    ("siqa", {"label": "4"}, "unknown label 3; known: 0 cook something else"),
    ("winogrande", {"answer": ""}, "unknown label -1"),
    ("winogrande", {"sentence": "No gap."}, 'template "default": substring not found'),
    ("winogrande", {"sentence": "_ slept."}, "the prompt comes out empty; mend the template or drop the row"),
    ("aqua", {"correct": "F"}, "unknown label 'F'; known: 0 A, 1 B"),
    ("aqua", {"options": ["A)1", "B)2"]}, "2 answers for the 5 labels A, B, C, D, E"),
    ("mmlu", {"choices": ["a", "b"]}, "2 answers for the 4 labels A, B, C, D"),
    ("record", {"answers": ["Nobody"]}, "unknown label 'Cars will cross the river on the Nobody a day later.'"),
    ("record", {"query": "No gap."}, "needs two or more different answers"),
    ("copa", {"choice1": ""}, "answer 0 comes out empty; mend the template or drop the row"),
    ("squad", {"answers": {"text": [], "answer_start": []}}, "list object has no element 0"),
    ("math500", {"answer": ""}, "no reference answer; mend or drop the row"),
]
MISSING = ["sst2.sentence", "sst2.label", "record.answers", "squad.answers", "math500.answer", "humaneval.test"]


def error_of_row(name: str, row: dict[str, Any], write_jsonl: Write) -> str:
    """The error of a file whose second row is this one."""
    path = write_jsonl("test.jsonl", [spec_of(name).demonstrations[0], row])
    return error(task(name, data=str(path.parent)), 0, only="test")


@pytest.mark.parametrize(("name", "changes", "expected"), BAD_ROWS)
def test_a_row_of_no_use(name: str, changes: dict[str, Any], expected: str, write_jsonl: Write) -> None:
    text = error_of_row(name, {**spec_of(name).demonstrations[1], **changes}, write_jsonl)
    assert text.startswith(f"test.jsonl:2: {name}.yaml: ")
    assert expected in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize("without", MISSING)
@pytest.mark.parametrize("null", [False, True])
def test_a_row_without_a_cell(without: str, null: bool, write_jsonl: Write) -> None:
    name, column = without.split(".")
    row = dict(spec_of(name).demonstrations[1])
    row.pop(column)
    text = error_of_row(name, {**row, column: None} if null else row, write_jsonl)
    assert text.startswith("test.jsonl:2: ")
    assert f"{name}.yaml" in text
    assert column in text
    assert len(text.splitlines()) == 1


def test_a_row_without_a_right_answer(write_jsonl: Write) -> None:
    text = error_of_row("record", {**spec_of("record").demonstrations[1], "answers": []}, write_jsonl)
    assert text.startswith("test.jsonl:2: record.yaml: ")
    assert "mend or drop the row" in text


def test_a_prompt_that_ends_in_a_blank_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "moo.yaml"
    file.write_text(
        "version: 1\ndescription: x\nsource: x\ncolumns: [a, b]\nkind: options\ngold: b\n"
        "objective: lm\nmetric: accuracy\n"
        'templates: {default: {prompt: "{{ a }} ", answers: ["yes", "no"]}}\n'
    )
    (tmp_path / "test.jsonl").write_text('{"a": "x", "b": 0}\n')
    load_task(task(file, data=str(tmp_path)), 0, only="test")
    assert "1 of 1 prompts end in a blank" in caplog.text
    file.write_text(file.read_text().replace("gold: b", "gold: b | int - 1"))
    (tmp_path / "test.jsonl").write_text('{"a": "x", "b": "7"}\n')
    with pytest.raises(InputError, match=r"unknown label 6; known: .* \(gold is b \| int - 1; b '7'\)"):
        load_task(task(file, data=str(tmp_path)), 0, only="test")
