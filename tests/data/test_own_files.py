"""One's own JSONL, CSV and Parquet files: what comes out, and what the errors say."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import read_rows
from tests.loading import error, task
from zofo.data import load_task

Write = Callable[[str, list[dict[str, Any]]], Path]


def test_text_and_label(sentiment_file: Path) -> None:
    data = load_task(task(sentiment_file), 0)
    assert (data.name, data.objective, data.labels) == ("sentiment", "options", ("great", "terrible"))
    assert (len(data.train), len(data.dev), len(data.test)) == (48, 6, 6)
    for e in data.train + data.dev + data.test:
        line = int(e.id.removeprefix("sentiment.jsonl:"))
        assert e.answers == (" great", " terrible")
        assert e.gold == (line % 2,)
        assert e.prompt.startswith(f"film {line - 1}:")
    assert load_task(task(sentiment_file, objective="lm", template="plain"), 0).objective == "lm"


def test_a_directory_of_own_files(write_jsonl: Write, sentiment_file: Path, tmp_path: Path) -> None:
    rows = read_rows(sentiment_file)
    write_jsonl("own/train.jsonl", rows[:40])
    write_jsonl("own/test.jsonl", rows[40:])
    data = load_task(task(tmp_path / "own"), 0)
    assert (len(data.train), len(data.dev), len(data.test)) == (36, 4, 20)
    assert {e.id.partition(":")[0] for e in data.train + data.dev} == {"train.jsonl"}


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([3, 10, 1], ("1", "3", "10")),
        ([True, False, True], ("false", "true")),
        (["b", "a", "c"], ("a", "b", "c")),
        ([1.0, 2.0, 1.0], ("1", "2")),
    ],
)
def test_kinds_of_labels(write_jsonl: Write, values: list[Any], labels: tuple[str, ...]) -> None:
    rows = [{"text": f"t{i}", "label": values[i % 3]} for i in range(30)]
    data = load_task(task(write_jsonl("rows.jsonl", rows)), 0)
    assert data.labels == labels
    for e in data.train:
        value = values[(int(e.id.partition(":")[2]) - 1) % 3]
        assert e.answers[e.gold[0]] == f" {value:g}" if isinstance(value, float) else f" {str(value).lower()}"


@pytest.mark.parametrize("values", [[False, True], [0, 1], ["0", "1"], ["bad", "good"]])
def test_choices_name_the_labels(write_jsonl: Write, values: list[Any]) -> None:
    rows = [{"text": f"t{i}", "label": values[i % 2]} for i in range(20)]
    data = load_task(task(write_jsonl("rows.jsonl", rows), choices=["bad", "good"]), 0)
    assert data.labels == ("bad", "good")
    assert all(e.gold == ((int(e.id.partition(":")[2]) - 1) % 2,) for e in data.train)


def test_no_second_space(write_jsonl: Write) -> None:
    rows = [{"text": f"t{i}\n", "label": "ab"[i % 2]} for i in range(20)]
    assert load_task(task(write_jsonl("rows.jsonl", rows)), 0).train[0].answers == ("a", "b")


def test_choices_of_each_row(write_jsonl: Write) -> None:
    rows = [{"text": f"t{i}", "label": ["x", 1][i % 2], "choices": ["x", "y", f"z{i}"]} for i in range(20)]
    data = load_task(task(write_jsonl("rows.jsonl", rows)), 0)
    assert data.labels == ()
    assert all(e.gold == ((int(e.id.partition(":")[2]) - 1) % 2,) and len(e.answers) == 3 for e in data.train)


def test_prompt_and_completion(write_jsonl: Write) -> None:
    rows = [{"prompt": "", "completion": f"text {i}"} for i in range(20)]
    data = load_task(task(write_jsonl("rows.jsonl", rows)), 0)
    assert (data.objective, data.metric, data.labels) == ("lm", "loss", ())
    assert data.train[0].answers[0].startswith("text ")
    assert data.train[0].gold == (0,)
    assert len(data.train) == 16


def test_objective_options_needs_options(write_jsonl: Write) -> None:
    path = write_jsonl("rows.jsonl", [{"prompt": "a", "completion": f"b{i}"} for i in range(9)])
    assert "has completions, no options; use lm" in error(task(path, objective="options"), 0)


def chat(n: int) -> list[dict[str, Any]]:
    return [
        {"messages": [{"role": "user", "content": f"u{i}"}, {"role": "assistant", "content": f"a{i}"}]}
        for i in range(n)
    ]


def test_messages(write_jsonl: Write, chat_tokenizer: Any) -> None:
    data = load_task(task(write_jsonl("rows.jsonl", chat(20))), 0, chat_tokenizer)
    e = next(e for e in data.train + data.dev + data.test if e.id == "rows.jsonl:3")
    assert (e.prompt, e.answers) == ("<s>user: u2</s>\n<s>assistant: ", ("a2</s>",))


def test_messages_without_template(write_jsonl: Write, tiny_tokenizer: Any) -> None:
    path = write_jsonl("rows.jsonl", chat(20))
    assert "needs a model with a chat template" in error(task(path), 0, tiny_tokenizer)


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ("hi", '"messages" must be a list'),
        ([{"role": "assistant", "content": "x"}], "must be the assistant's, after at least one other"),
        ([{"role": "assistant", "content": "x"}, {"role": "user", "content": "x"}], "must be the assistant's"),
    ],
)
def test_wrong_messages(write_jsonl: Write, chat_tokenizer: Any, messages: Any, expected: str) -> None:
    assert expected in error(task(write_jsonl("rows.jsonl", [{"messages": messages}] * 9)), 0, chat_tokenizer)


def test_csv_and_parquet_give_what_jsonl_gives(sentiment_file: Path, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = read_rows(sentiment_file)
    with (tmp_path / "sentiment.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "sentiment.parquet")
    prompts = [
        [e.prompt for e in load_task(task(sentiment_file.with_suffix(suffix)), 0).train]
        for suffix in (".jsonl", ".csv", ".parquet")
    ]
    assert prompts[0] == prompts[1] == prompts[2]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "rows.jsonl",
            '{"text": "a", "label": 1}\n{"text": "a" "label": 1}\n',
            "rows.jsonl:2: bad JSON: Expecting ','",
        ),
        ("rows.jsonl", "[1]\n", "rows.jsonl:1: expected one JSON object a line, found a list"),
        ("rows.jsonl", "\n", "rows.jsonl: no rows"),
        (
            "rows.jsonl",
            '{"text": "a", "lable": 1}\n',
            'rows.jsonl: no column "label"; has: text, lable; did you mean "lable" for it? rename it to "label"',
        ),
        ("rows.jsonl", '{"txt": "a", "score": 1}\n', "needs the columns text and label, or prompt and completion"),
        (
            "rows.jsonl",
            '{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n{"text": "c"}\n',
            'rows.jsonl:3: no "label"',
        ),
        (
            "rows.jsonl",
            '{"text": "a", "label": 1}\n{"text": 5, "label": 0}\n',
            'rows.jsonl:2: "text" must be text, not int',
        ),
        ("rows.jsonl", '{"text": "a", "label": 1}\n' * 5, 'rows.jsonl: only one label, "1"'),
        (
            "rows.jsonl",
            '{"text": "a", "label": [1.5]}\n' * 5,
            '"label" must be a word, a number or true/false, not [1.5]',
        ),
        (
            "rows.jsonl",
            '{"text": "a", "label": 1}\n{"text": "b", "label": 2}\n',
            "no train examples: 2 rows are too few",
        ),
        ("rows.csv", "text,label\na,b\nc\n", "rows.csv:3: fewer fields than the header's 2"),
        ("rows.csv", "text,label\na,b\nc,d,e\n", "rows.csv:3: more fields than the header's 2"),
        ("rows.parquet", "not parquet", "rows.parquet: not a readable Parquet file"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: str, expected: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    assert expected in error(task(path), 0)


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "caf\xe9", "label": 1}\n')
    assert "not UTF-8" in error(task(path), 0)


def test_rows_that_repeat_are_left_out_and_said(write_jsonl: Write, caplog: pytest.LogCaptureFixture) -> None:
    """Left out without a word they would be rows that somebody misses."""
    path = write_jsonl("rows.jsonl", [{"text": f"film {i % 25}", "label": "ab"[i % 25 % 2]} for i in range(100)])
    data = load_task(task(path), 0)
    taken = len(data.train) + len(data.dev) + len(data.test)
    assert taken < 100
    assert caplog.messages == [f"rows.jsonl: {100 - taken} training rows repeat a dev or test row: left out"]
    caplog.clear()
    load_task(task(path, train_examples=20, dev_examples=5, test_examples=5), 0)
    assert caplog.messages == [], "other rows took their places"


def test_repeats_of_one_row_are_no_rows(write_jsonl: Write) -> None:
    path = write_jsonl("rows.jsonl", [{"prompt": "two and two", "completion": " four"}] * 30)
    assert error(task(path), 0) == "rows.jsonl: no test examples: 30 rows, 1 distinct, are too few to be split"


def test_unknown_label_in_another_split(write_jsonl: Write, sentiment_file: Path, tmp_path: Path) -> None:
    rows = read_rows(sentiment_file)
    write_jsonl("own/train.jsonl", rows)
    write_jsonl("own/validation.jsonl", [*rows[:4], {"text": "x", "label": "graet"}])
    text = error(task(tmp_path / "own"), 0)
    assert text == (
        'validation.jsonl:5: unknown label "graet"; known: great, terrible; did you mean "great"? or leave out such '
        "rows: task.on_bad_row=skip"
    )


def test_a_column_missing_in_another_split(write_jsonl: Write, sentiment_file: Path, tmp_path: Path) -> None:
    write_jsonl("own/train.jsonl", read_rows(sentiment_file))
    write_jsonl("own/test.jsonl", [{"text": "x", "labels": "great"}])
    assert error(task(tmp_path / "own"), 0).startswith('test.jsonl: no column "label"; has: text, labels')
