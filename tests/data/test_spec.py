"""A task's own YAML file: answers from the row, every fault of the file in one line, rows that it cannot use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.loading import error, task
from zofo.config import registry
from zofo.data import load_task
from zofo.data.files import Record
from zofo.data.spec import load_spec, maker, used_columns

Write = Callable[[str, list[dict[str, Any]]], Path]


# ------------------------------------------------------------------------------------------------------ known tasks


@pytest.mark.parametrize("name", registry.names("tasks"))
def test_task_files_are_right(name: str) -> None:
    spec = load_spec(registry.load("tasks", name))
    assert {"default", "plain"} <= set(spec.templates)
    assert registry.describe("tasks", name) == spec.description


# --------------------------------------------------------------------------------------------- a task file of one's own


TASK = """
version: 3
description: which of two
source: me
columns: [q, a, b, right]
kind: options
gold: right
objective: {objective}
metric: accuracy
templates:
  default: {{prompt: "{prompt}", answers: {answers}}}
"""


def own_yaml(
    folder: Path, prompt: str = "{{ q }}\\n", answers: str = '[" {{ a }}", " {{ b }}"]', objective: str = "lm"
) -> Path:
    path = folder / "which.yaml"
    path.write_text(TASK.format(prompt=prompt, answers=answers, objective=objective))
    return path


@pytest.mark.parametrize("answers", ['[" {{ a }}", " {{ b }}"]', "\"[' ' ~ a, ' ' ~ b]\""])
def test_answers_from_the_row(tmp_path: Path, write_jsonl: Write, answers: str) -> None:
    rows = [{"q": f"q{i}", "a": "one", "b": "two", "right": ["one", 1, "1", [0, 1]][i % 4]} for i in range(40)]
    data = load_task(task(own_yaml(tmp_path, answers=answers), data=str(write_jsonl("rows.jsonl", rows))), 0)
    assert (data.name, data.version, data.objective, data.labels) == ("which", 3, "lm", ())
    gold = {int(e.id.rpartition("/")[2]) % 4: e.gold for e in data.train}
    assert gold == {0: (0,), 1: (1,), 2: (1,), 3: (0, 1)}
    assert data.train[0].prompt.endswith("\n"), "a template's last newline is part of the prompt"
    assert data.train[0].answers == (" one", " two")


def test_all_errors_of_a_task_file_at_once(tmp_path: Path) -> None:
    path = own_yaml(tmp_path, prompt="{{ qq }}", objective="lm")
    path.write_text(path.read_text().replace("metric:", "metrik:"))
    text = error(task(path), 0)
    assert 'metrik: unknown field; did you mean "metric"?' in text
    assert "required" not in text, "it is the one that was meant"
    assert 'template "default": no column "qq"; columns: q, a, b, right' in text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("version: [1", "which.yaml line 1: expected ',' or ']'"),
        ("version: 1\nversion: 2", 'which.yaml line 2: key "version" is given twice'),
        ("just words", "expected keys such as version"),
        (TASK.format(prompt="{{ q", answers="[a]", objective="lm"), "bad template"),
        (
            TASK.format(prompt="{{ 1 if (9)[-1] else q }}", answers="[a]", objective="lm"),
            "bad template: int object has no element",
        ),
        (
            TASK.format(prompt="{{ q }}", answers="[a]", objective="best"),
            'objective: unknown "best"; known: lm, metric, options',
        ),
    ],
)
def test_broken_task_files(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "which.yaml"
    path.write_text(content)
    assert expected in error(task(path), 0)


CHANGES = [
    ({"metric": None}, "metric: required"),
    ({"templates": {"default": {"prompt": "{{ q }}"}}}, "templates.default.answers: required"),
    (
        {"templates": {"default": {"prompt": "{{ q }}", "answers": ["a", "b"], "promt": "x"}}},
        'templates.default.promt: unknown field; did you mean "prompt"?',
    ),
    ({"hub": {"path": "x", "nmae": "y"}}, 'hub.nmae: unknown field; did you mean "name"?'),
    (
        {"templates": {"default": {"prompt": "{{ q }}", "answers": ["a", True]}}},
        "templates.default.answers.1: expected a string, got true; quote it",
    ),
    ({"labels": ["x", "y", "z"]}, 'template "default": 2 answers for 3 labels'),
    ({"labels": ["x", "x"]}, "labels: one occurs twice: x, x"),
    ({"splits": {"validation": "dev"}}, 'splits: unknown "validation"; known: train, dev, test'),
    ({"kind": "completion", "metric": "loss"}, "2 answers; kind completion has one answer"),
    (
        {"kind": "completion", "templates": {"default": {"prompt": "{{ q }}", "answers": ["a"]}}},
        'has no "accuracy"; use loss',
    ),
    ({"templates": {"default": {"prompt": "{{ q }}", "answers": ["a"]}}}, "kind options has two answers or more"),
    ({"gold": None}, "gold: required: which option is right"),
    ({"version": "x"}, 'version: expected an integer, got "x"'),
    ({"generation": {"samples": 0}}, "generation.samples: must be >= 1, got 0"),
    ({"generation": {"max_new_tokens": -1}}, "generation.max_new_tokens: must be >= 1, got -1"),
    ({"generation": {"temperature": float("nan")}}, "generation.temperature: expected a finite number, got nan"),
    ({"generation": {"top_p": 2}}, "generation.top_p: must be > 0 and <= 1, got 2"),
    ({"generation": {"stop": [""]}}, "generation.stop: expected a list of texts, none of them empty"),
    ({"generation": [1]}, "generation: expected a mapping of fields, got [1]"),
    ({"templates": {"default": "x"}}, 'templates.default: expected a mapping of fields, got "x"'),
    ({"metric": ["accuracy", 1]}, "metric.1: expected a string, got 1; quote it"),
    ({"file": "other.yaml"}, "file: unknown field"),
]


@pytest.mark.parametrize(("changes", "expected"), CHANGES)
def test_one_fault_of_a_task_file_is_one_line(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    import yaml

    path = own_yaml(tmp_path)
    content = {**yaml.safe_load(path.read_text()), **changes}
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    text = error(task(path), 0)
    assert text.startswith(f"{path}: ")
    assert expected in text
    assert len(text.splitlines()) == 1


def test_a_task_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "which.yaml"
    path.write_bytes(b"description: caf\xe9")
    assert "not UTF-8" in error(task(path), 0)


@pytest.mark.parametrize(
    ("changes", "row", "expected"),
    [
        ({"prompt": "{% if a == 'x' %}{{ q }}{% endif %} "}, {}, "the prompt comes out empty; mend the template"),
        ({}, {"b": ""}, "answer 1 comes out empty; mend the template or drop the row"),
        ({}, {"b": "one"}, "needs two or more different answers, got ' one', ' one'"),
        ({"answers": '"[a, b][:n]"'}, {"n": 1}, "needs two or more different answers, got 'one'"),
        ({"answers": '"[a, b] * (1 // n)"'}, {"n": 0}, "by zero"),
        ({}, {"right": 2}, "unknown label 2; known: 0 one, 1 two"),
        ({}, {"right": "ome"}, "unknown label 'ome'; known: 0 one, 1 two; did you mean \"one\"?"),
    ],
)
def test_rows_a_template_cannot_use(
    tmp_path: Path, write_jsonl: Write, changes: dict[str, str], row: dict[str, Any], expected: str
) -> None:
    path = own_yaml(tmp_path, **changes)
    path.write_text(path.read_text().replace("[q, a, b, right]", "[q, a, b, right, n]"))
    rows = write_jsonl("rows.jsonl", [{"q": "q", "a": "one", "b": "two", "right": 0, "n": 2, **row}] * 9)
    text = error(task(path, data=str(rows)), 0)
    assert text.startswith("rows.jsonl:")
    assert expected in text
    assert len(text.splitlines()) == 1


def test_templates_run_in_a_sandbox(tmp_path: Path, write_jsonl: Write) -> None:
    path = own_yaml(tmp_path, prompt="{{ q.__class__.__mro__ }}")
    rows = [{"q": "q", "a": "one", "b": "two", "right": 0}] * 9
    assert "rows.jsonl:" in error(task(path, data=str(write_jsonl("rows.jsonl", rows))), 0)


@pytest.mark.parametrize(
    "prompt",
    [
        "{% if q %}{% set word = q | upper %}{{ word }}{% else %}none{% endif %}",
        "{% if q %}{% set word = 'a' %}{% else %}{% set word = 'b' %}{% endif %}{{ word }} {{ q }}",
        "{% for i in range(2) %}{% if i %}{% set n = i %}{{ n }}{% endif %}{% endfor %} {{ q }}",
        "{% if q %}{% macro say(x) %}{{ x }}!{% endmacro %}{{ say(q) }}{% endif %}",
        "{% if q %}{% set q = q | trim %}{% endif %}{{ q }}",
    ],
)
def test_what_a_template_sets_itself_is_no_column(prompt: str, tmp_path: Path) -> None:
    """In one branch alone, too. A column that is set anew is still one."""
    spec = load_spec(own_yaml(tmp_path, prompt))
    assert used_columns(spec)['template "default"'] == {"q", "a", "b"}
    made = maker(spec, "default")(Record("1", "rows.jsonl:1", {"q": "why", "a": "x", "b": "y", "right": 0}))
    assert made.prompt.strip()
