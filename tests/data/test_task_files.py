"""Every file of src/zofo/data/tasks: complete, true to itself under every template, right on the shared extracts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_rows
from tests.task_files import FOLDERS, NAMES, shown, spec_of
from zofo.config import registry
from zofo.config.sections import TaskConfig
from zofo.data import Example, load_task
from zofo.data.files import read_file
from zofo.data.metrics import humaneval
from zofo.data.metrics.text import TEXT_METRICS
from zofo.data.spec import TaskSpec, load_spec, maker, metrics_of
from zofo.errors import InputError

Write = Callable[[str, list[dict[str, Any]]], Path]
CODE = {"humaneval"}  # whose answers go on where the prompt ends, with the indentation of code
MANY = {"drop", "humaneval", "math500"}  # for which four demonstrations are shown


# --------------------------------------------------------------------------------------- demonstrations of our own


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_complete(name: str) -> None:
    spec = spec_of(name)
    assert set(spec.templates) > {"default", "plain"} or name == "movie-reviews", "one more way to ask"
    assert len(spec.demonstrations) >= (4 if name in MANY else 2)
    assert spec.hub is not None or "task.data=" in spec.missing
    assert spec.hub is None or "test" in spec.splits
    assert "train" in spec.splits or spec.carve or spec.hub is None
    for row in spec.demonstrations:
        assert set(spec.columns) <= set(row)
    if spec.kind == "options":
        assert len({e.gold for e in shown(spec, "default")}) > 1, "demonstrations with different right answers"


@pytest.mark.parametrize("name", NAMES)
def test_demonstrations_render_under_every_template(name: str) -> None:
    spec = spec_of(name)
    right = [(e.gold, e.reference) for e in shown(spec, "default")]
    for template in spec.templates:
        examples = shown(spec, template)
        assert [(e.gold, e.reference) for e in examples] == right, "what is right does not depend on how one asks"
        for e in examples:
            assert e.gold
            assert max(e.gold) < len(e.answers)
            assert (e.reference is not None) == (spec.kind == "generation")
            if name not in CODE:  # a blank between prompt and answer, and no second one
                for answer in e.answers:
                    assert answer[:1].isspace() != e.prompt[-1].isspace()
                    assert answer == answer.rstrip()
            if e.null_prompt is not None:
                assert e.null_prompt.strip()
                assert e.null_prompt in e.prompt, "the prompt without its input"
                assert e.null_prompt[-1].isspace() == e.prompt[-1].isspace()


@pytest.mark.parametrize("name", [name for name in NAMES if spec_of(name).kind == "options"])
def test_calibrated_scores_have_a_prompt_without_input(name: str) -> None:
    spec = spec_of(name)
    without = {template for template, t in spec.templates.items() if t.null_prompt is None}
    assert without == {"plain"} | ({"default"} if name == "winogrande" else set())  # its prompt is all input


@pytest.mark.parametrize("name", [name for name in NAMES if spec_of(name).kind == "generation"])
def test_the_trained_answer_scores_full_marks(name: str) -> None:
    spec = spec_of(name)
    for template in spec.templates:
        for e in shown(spec, template):
            assert full_marks(spec, e)


def full_marks(spec: TaskSpec, e: Example) -> bool:
    """The metrics of the task take its references, and a model that writes the answer is right and not cut short."""
    assert not any(stop in e.answers[0] for stop in spec.generation.stop)
    if metrics_of(spec) == ("pass_at_k",):
        of = e.reference
        exec(
            humaneval.program(of["prompt"], e.answers[0], of["test"], of["entry_point"]), {}
        )  # demonstrations of our own
        return True
    return all(TEXT_METRICS[metric](e.answers[0], e.reference) == 1.0 for metric in metrics_of(spec))


@pytest.mark.parametrize("name", NAMES)
def test_demonstrations_load_as_data_of_ones_own(name: str, write_jsonl: Write, tmp_path: Path) -> None:
    spec = spec_of(name)
    write_jsonl("test.jsonl", spec.demonstrations)
    data = load_task(TaskConfig(name=name, data=str(tmp_path)), 0, only="test")
    assert (data.kind, data.metrics, data.labels) == (spec.kind, metrics_of(spec), tuple(spec.labels))
    assert (data.train, data.dev) == ([], [])
    assert {e.id for e in data.test} == {f"{name}/test/{i}" for i in range(len(spec.demonstrations))}
    assert {(e.prompt, e.answers) for e in data.test} == {(e.prompt, e.answers) for e in shown(spec, "default")}


@pytest.mark.parametrize("name", ["humaneval", "math500"])
def test_a_run_trains_on_a_share_of_test_rows_alone(name: str, write_jsonl: Write, tmp_path: Path) -> None:
    rows = [{**row, "n": n} for n in range(5) for row in spec_of(name).demonstrations]
    text = "prompt" if name == "humaneval" else "problem"
    write_jsonl("test.jsonl", [{**row, text: f"{row[text]}{row['n']}"} for row in rows])
    data = load_task(TaskConfig(name=name, data=str(tmp_path), train_examples=14, dev_examples=2), 0)
    assert (len(data.train), len(data.dev), len(data.test)) == (14, 2, 4)
    assert len({e.prompt for e in data.train + data.dev + data.test}) == 20


# ------------------------------------------------------------------------------------------------- the shared extracts


@pytest.mark.parametrize("name", NAMES)
def test_every_shared_row_renders(name: str, shared_data: Path) -> None:
    folder = shared_data / FOLDERS.get(name, name)
    if not folder.is_dir():
        pytest.skip(f"no shared rows of {name}")
    known = json.loads((shared_data / "manifest.json").read_text("utf-8"))[folder.name]
    spec = spec_of(name)
    rows = read_file(folder / "test.jsonl", f"{name}/test")
    for template in spec.templates:
        make = maker(spec, template)
        examples = [make(row) for row in rows]
        assert len(examples) == known["counts"]["test"]
        assert all(e.gold and max(e.gold) < len(e.answers) for e in examples)
        if spec.kind == "generation" and name not in CODE:
            assert [e.id for e in examples if not full_marks(spec, e)] == []
        if spec.kind == "options" and known.get("balance"):
            counts = [n for _, n in sorted(known["balance"]["test"].items())]  # in the order of the labels' names
            single = Counter(e.gold[0] for e in examples if len(e.gold) == 1)
            twice = sum(len(e.gold) > 1 for e in examples)  # the right text is listed twice, and so right both times
            assert all(single[i] <= n for i, n in enumerate(counts))
            assert single.total() + twice == sum(counts)
            assert twice <= 4


def test_one_file_is_the_split_that_is_evaluated(tmp_path: Path) -> None:
    """All of it, and no demonstration comes out of it; a run cuts its dev and test from it."""
    rows = [
        {**row, "premise": f"{row['premise']} {i}"}
        for i, row in enumerate(load_spec(registry.load("tasks", "copa")).demonstrations * 10)
    ]
    path = write_rows(tmp_path / "test.jsonl", rows)
    cfg = TaskConfig(name="copa", data=str(path))
    data = load_task(cfg, 0, only="test")
    assert (len(data.train), len(data.test)) == (0, len(rows))
    shown = load_task(replace(cfg, num_fewshot=1), 0, only="test").test[0]
    demonstration = shown.prompt.partition("\n\n")[0]
    assert not any(character.isdigit() for character in demonstration), "the task file's own have no number"
    assert 0 < len(load_task(cfg, 0).test) < len(rows)


def test_settings_that_a_task_has_no_use_for_are_refused(tmp_path: Path) -> None:
    for field, value, fault in (("samples", 9, "generates nothing"), ("run_generated_code", True, "runs no programs")):
        with pytest.raises(InputError, match=f"task.{field}: copa {fault}; leave it out"):
            load_task(replace(TaskConfig(name="copa", data=str(tmp_path)), **{field: value}), 0)
