"""The examples of a setting: their counts and texts, demonstrations before them, and what a setting cannot have."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_rows
from tests.tiny_setting import OURS, rows_of, write_ours
from zofo.config.sections import TaskConfig
from zofo.data.multitask.setting import check_setting, find_setting, load_setting, open_setting
from zofo.errors import InputError

Change = Callable[..., TaskConfig]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_ours(tmp_path / "data")


@pytest.fixture
def cfg(data: Path) -> Change:
    """cfg(...) -> the task's section for OURS."""
    return lambda **changes: TaskConfig(name="ours", data=str(data), train_examples=8, test_examples=6, **changes)


def test_examples(cfg: Change) -> None:
    held = replace(OURS, held_out=("tools",))
    data = load_setting(cfg(), held, 0)
    assert (data.name, data.version, data.objective, data.metrics, data.kind) == (
        "ours",
        1,
        "lm",
        ("task_mean",),
        "options",
    )
    assert Counter(e.group for e in data.train) == {"fruit": 8, "sums": 8}
    assert Counter(e.group for e in data.dev) == {"tools": 20}
    assert Counter(e.group for e in data.test) == {"birds": 6, "fish": 6}
    assert data.groups == {"tools": "macro_f1", "birds": "macro_f1", "fish": "macro_f1"}
    assert (data.labels, data.max_length, data.metric, data.repeated) == (
        (),
        256,
        "task_mean",
        {"dev": 0, "test": 0},
    )
    assert {e.answers for e in data.test} == {("\nwren", "\ncrow"), ("\neel", "\ncarp")}
    assert all(e.prompt.startswith("Item ") and "\n" not in e.prompt for e in data.test)
    assert load_setting(cfg(), held, 0) == data != load_setting(cfg(), held, 1)


def test_demonstrations_before_what_is_measured(cfg: Change) -> None:
    held = replace(OURS, held_out=("tools",))
    data = load_setting(cfg(num_fewshot=3), held, 0)
    assert data.max_length == 768
    assert all("\n" not in e.prompt for e in data.train)
    for split in (data.dev, data.test):
        assert all(len(e.prompt.split("\n\n\n")) == 4 for e in split)
    shown = {e.group: set() for e in data.dev + data.test}
    for example in data.dev + data.test:
        shown[example.group].add(tuple(example.prompt.split("\n\n\n")[:3]))
    assert all(len(contexts) == 1 for contexts in shown.values())  # one draw for a task
    asked = {e.prompt.split("\n\n\n")[3] for e in data.dev}
    (context,) = shown["tools"]
    assert not asked & {text.split("\n")[0] for text in context}  # tools has no test file: both are train rows
    assert len(data.dev) == 17
    other = load_setting(cfg(num_fewshot=3), held, 0, shots_seed=13)
    assert {tuple(e.prompt.split("\n\n\n")[:3]) for e in other.dev} != shown["tools"]
    assert [e.id for e in other.test] == [e.id for e in data.test]


def test_demonstrations_before_what_is_trained_on(cfg: Change) -> None:
    data = load_setting(cfg(num_fewshot=3), OURS, 0, demonstrates=True)
    contexts = set()
    for example in data.train:
        *shown, asked = example.prompt.split("\n\n\n")
        assert len({text.split("\n")[0] for text in shown} - {asked}) == 3
        assert all((" and " in text) == (example.group == "sums") for text in shown)
        contexts.add(tuple(shown))
    assert len(contexts) == len(data.train)  # a draw for each
    with pytest.raises(
        InputError, match=r"task.num_fewshot: \S+.jsonl:\d+: \w+ has 7 other training rows, and 8 are to"
    ):
        load_setting(cfg(num_fewshot=8), OURS, 0, demonstrates=True)


def test_only_one_split(cfg: Change, data: Path) -> None:
    tests = load_setting(cfg(), replace(OURS, train=("trees",)), 0, only="test")
    assert (tests.train, tests.dev) == ([], [])
    assert len(tests.test) == 12
    dev = load_setting(cfg(), OURS, 0, only="dev")
    assert (dev.train, dev.test) == ([], [])
    assert dev.dev == load_setting(cfg(), OURS, 0).dev
    with pytest.raises(InputError, match=r"task.held_out: 1 of the 0"):
        load_setting(cfg(), replace(OURS, train=("trees",)), 0)
    with pytest.raises(InputError, match=r"data: no target task of ours is there; expected stars/, ..."):
        load_setting(cfg(), replace(OURS, target=("stars",)), 0)


def test_missing_tasks_are_warned_of_once(cfg: Change, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "zofo"):
        load_setting(cfg(), OURS, 0)
        assert [(r.levelname, r.message.partition(":")[0]) for r in caplog.records] == [("INFO", "ours")]
        caplog.clear()
        load_setting(cfg(), replace(OURS, train=(*OURS.train, "trees")), 0)
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert caplog.records[0].message.endswith("2 of 2 target tasks (100 %); missing training tasks: trees")


def test_options_are_an_objective_where_all_tasks_have_them(cfg: Change) -> None:
    data = load_setting(cfg(objective="options"), replace(OURS, train=("fruit", "tools")), 0)
    assert data.objective == "options"
    with pytest.raises(InputError, match=r"task.objective: the training task sums has rows without options; use lm"):
        load_setting(cfg(objective="options"), OURS, 0)


def test_repeated_rows_are_counted(cfg: Change, data: Path) -> None:
    words = {"options": ["pear", "plum"]}
    write_rows(data / "fruit" / "train.jsonl", rows_of("fruit", 8))  # all of them are taken
    same = [{**row, "task": "birds"} for row in rows_of("fruit", 4)]
    write_rows(data / "birds" / "train.jsonl", same)
    write_rows(data / "birds" / "test.jsonl", [*same[:3], {"input": "another", "output": "pear", **words}])
    write_rows(data / "tools" / "test.jsonl", [{**row, "task": "tools"} for row in rows_of("fruit", 1)])
    write_rows(data / "tools" / "train.jsonl", [{**row, "task": "tools"} for row in rows_of("fruit", 2)])
    loaded = load_setting(cfg(), replace(OURS, held_out=("tools",)), 0)
    assert loaded.repeated == {"dev": 1, "test": 3}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": None}, r"task.data: ours needs a directory .* each task: birds/train.jsonl and test.jsonl, or M"),
        ({"choices": ["a", "b"]}, "task.choices: is for own files"),
        ({"apply_chat_template": True}, "task.apply_chat_template: ours has MetaICL's plain texts"),
        ({"metric": "task_men"}, r'task.metric: "task_men" does not measure a setting; did you mean "task_mean"\?'),
        ({"max_new_tokens": 5}, "task.max_new_tokens: ours generates nothing; leave it out"),
        ({"temperature": 0.5}, "task.temperature: ours generates nothing"),
        ({"top_p": 0.5}, "task.top_p: ours generates nothing"),
        ({"samples": 5}, "task.samples: ours generates nothing"),
        ({"run_generated_code": True}, "task.run_generated_code: ours runs no programs"),
        ({"fewshot": "per-example"}, "task.fewshot: ours draws demonstrations as MetaICL does"),
        ({"template": "chanel"}, r'task.template: settings have no template "chanel"; did you mean "channel"\?'),
        ({"template": "channel", "scoring": "pmi"}, "task.scoring: a channel model has no prompt without the input"),
    ],
)
def test_what_a_setting_cannot_have(data: Path, changes: dict[str, Any], message: str) -> None:
    cfg = TaskConfig(**{"name": "ours", "data": str(data), **changes})
    with pytest.raises(InputError, match="^" + message):
        check_setting(cfg, OURS)
    with pytest.raises(InputError, match="^" + message):
        load_setting(cfg, OURS, 0)


def test_what_a_setting_can_have(cfg: Change) -> None:
    check_setting(cfg(metric="task_mean", scoring="pmi"), OURS)
    assert load_setting(cfg(scoring="pmi"), OURS, 0).scoring == "pmi"
    channel = load_setting(cfg(template="channel"), OURS, 0)
    assert {e.leads for e in channel.test} == {("wren", "crow"), ("eel", "carp")}


# ----------------------------------------------------------------------------------------------------------- real rows


def test_real_rows(shared_data: Path, tiny_tokenizer: Any) -> None:
    setting = find_setting("class-to-class")
    assert setting is not None
    cfg = TaskConfig(
        "class-to-class", data=str(shared_data / "meta"), train_examples=40, dev_examples=30, test_examples=20
    )
    opened = open_setting(setting, shared_data / "meta", 1, 0)
    assert opened.coverage[0] == "class-to-class: 4 of 43 training tasks (9 %), 4 of 20 target tasks (20 %)"
    assert sorted([*opened.train, *opened.held_out]) == ["glue-cola", "glue-qnli", "rotten_tomatoes", "trec"]
    data = load_setting(replace(cfg, num_fewshot=4), setting, 0, tiny_tokenizer, demonstrates=True)
    assert (len(data.train), len(data.dev), len(data.test)) == (120, 30, 80)
    assert set(data.groups) == {*opened.held_out, "ag_news", "dbpedia_14", "hate_speech18", "medical_questions_pairs"}
    assert len({e.id for e in data.train + data.dev + data.test}) == 230
