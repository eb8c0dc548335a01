"""Settings: the four files, one's own, which tasks are there, which are held out, and the examples that come of it."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from zofo.config import registry
from zofo.config.sections import TaskConfig
from zofo.data.multitask.setting import Setting, check_setting, find_setting, load_setting, open_setting
from zofo.errors import InputError

# From the configurations of MetaICL: training tasks, targets, targets of an unseen domain.
COUNTS = {
    "class-to-class": (43, 20, 4),
    "non-class-to-class": (37, 20, 4),
    "qa-to-qa": (37, 22, 1),
    "non-qa-to-qa": (33, 22, 1),
}
WORDS = {"fruit": ("pear", "plum"), "tools": ("saw", "plane"), "birds": ("wren", "crow"), "fish": ("eel", "carp")}
OURS = Setting("ours", ("fruit", "tools", "sums"), ("birds", "fish"), ("fish",), file="ours.yaml")
Change = Callable[..., TaskConfig]


def rows(task: str, n: int, start: int = 0) -> list[dict[str, Any]]:
    if task == "sums":
        made = [{"input": f"{i} and {i}?", "output": str(2 * i), "options": []} for i in range(start, start + n)]
    else:
        words = list(WORDS[task])
        made = [
            {"input": f"Item {i} is what?", "output": words[i % 2], "options": words} for i in range(start, start + n)
        ]
    return [{"task": task, **row} for row in made]


def write(path: Path, some: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory with all tasks of OURS: 20 train rows and, but for tools and sums, 10 test rows."""
    for task in ("fruit", "tools", "sums", "birds", "fish"):
        write(tmp_path / "data" / task / "train.jsonl", rows(task, 20))
        if task not in ("tools", "sums"):
            write(tmp_path / "data" / task / "test.jsonl", rows(task, 10, 100))
    return tmp_path / "data"


@pytest.fixture
def cfg(data: Path) -> Change:
    """cfg(...) -> the task's section for OURS."""
    return lambda **changes: TaskConfig(name="ours", data=str(data), train_examples=8, test_examples=6, **changes)


def own_file(tmp_path: Path, **content: Any) -> str:
    path = tmp_path / "my_setting.yaml"
    base = {"description": "mine", "train": ["fruit", "tools"], "target": ["birds", "fish"]}
    path.write_text(yaml.safe_dump({k: v for k, v in {**base, **content}.items() if v is not None}), encoding="utf-8")
    return str(path)


# --------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(("name", "counts"), COUNTS.items())
def test_the_four_settings(name: str, counts: tuple[int, int, int]) -> None:
    found = find_setting(name)
    assert found == find_setting(name.replace("-", "_"))
    assert found is not None
    assert (len(found.train), len(found.target), len(found.unseen)) == counts
    assert found.name == name
    assert "MetaICL (Min et al., NAACL 2022, arXiv 2110.15943)" in found.source
    assert registry.describe("settings", name) == found.description
    assert str(counts[0]) in found.description


def test_the_settings_of_one_kind_share_their_targets() -> None:
    found = {name: find_setting(name) for name in registry.names("settings")}
    assert list(found) == sorted(COUNTS)
    for one, other in (("class-to-class", "non-class-to-class"), ("qa-to-qa", "non-qa-to-qa")):
        a, b = found[one], found[other]
        assert a is not None
        assert b is not None
        assert set(a.target) == set(b.target)
    assert {"glue-cola", "trec"} <= set(found["class-to-class"].train)  # type: ignore[union-attr]
    assert found["qa-to-qa"].unseen == ("unifiedqa:mctest",)  # type: ignore[union-attr]


def test_own_file(tmp_path: Path) -> None:
    found = find_setting(own_file(tmp_path, unseen_domain=["fish"], held_out=["tools"], source="my shelf"))
    expected = Setting("my-setting", ("fruit", "tools"), ("birds", "fish"), ("fish",), ("tools",), "mine", "my shelf")
    assert found == replace(expected, file="my_setting.yaml")


def test_what_is_no_setting(tmp_path: Path) -> None:
    assert find_setting("sst2") is None
    assert find_setting("rows.jsonl") is None
    assert find_setting(str(tmp_path / "missing.yaml")) is None
    assert find_setting(own_file(tmp_path, target=None, train=None)) is None  # a task's file: it says what is wrong
    (tmp_path / "bad.yaml").write_text("target: [")
    assert find_setting(str(tmp_path / "bad.yaml")) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"tran": ["fruit"]}, r'unknown key "tran"; did you mean "train"\?'),
        ({"train": None}, r'missing key "train": a list of tasks'),
        ({"target": []}, r'missing key "target": a list of tasks'),
        ({"train": ["fruit", False]}, r"train: expected a list of tasks' names; quote one that YAML takes"),
        ({"train": "fruit"}, r"train: expected a list of tasks' names"),
        ({"train": ["glue-rte", "fruit", "glue_rte"]}, r"train: two tasks of one name: glue-rte, glue_rte"),
        ({"train": ["fruit", "fruit"]}, r"train: two tasks of one name: fruit, fruit"),
        ({"train": ["my-fish", "fruit"], "target": ["my_fish"]}, r"target: .* trained on is not new: my_fish"),
        ({"unseen_domain": ["bird"]}, r'unseen_domain: no task "bird" in target; did you mean "birds"\?'),
        ({"held_out": ["fish"]}, r'held_out: no task "fish" in train'),
        ({"held_out": ["fruit", "tools"]}, r"held_out: holds every task of train; leave one to train on"),
    ],
)  # fmt: skip
def test_bad_files(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"my_setting.yaml: {message}"):
        find_setting(own_file(tmp_path, **content))


# ------------------------------------------------------------------------------------------------------ what is there


def test_all_tasks_are_there(data: Path) -> None:
    found = open_setting(OURS, data, 1, 0)
    assert list(found.target) == ["birds", "fish"]
    assert sorted([*found.train, *found.held_out]) == ["fruit", "sums", "tools"]
    assert found.missing_train == found.missing_target == ()
    assert found.coverage == ["ours: 3 of 3 training tasks (100 %), 2 of 2 target tasks (100 %)"]


def test_missing_tasks_are_named(data: Path) -> None:
    more = replace(OURS, train=(*OURS.train, "trees", "herbs"), target=(*OURS.target, "stars"))
    found = open_setting(more, data, 1, 0)
    assert found.missing_train == ("trees", "herbs")
    assert found.missing_target == ("stars",)
    assert found.coverage == [
        "ours: 3 of 5 training tasks (60 %), 2 of 3 target tasks (67 %)",
        "missing training tasks: trees, herbs",
        "missing target tasks: stars",
    ]


def test_held_out_tasks_have_options_and_follow_the_seed(data: Path) -> None:
    drawn = [tuple(open_setting(OURS, data, 1, seed).held_out) for seed in range(20)]
    assert set(drawn) == {("fruit",), ("tools",)}  # sums has no options
    assert drawn == [tuple(open_setting(OURS, data, 1, seed).held_out) for seed in range(20)]
    two = open_setting(OURS, data, 2, 0)
    assert (sorted(two.held_out), list(two.train)) == (["fruit", "tools"], ["sums"])
    assert open_setting(OURS, data, 0, 0).held_out == {}
    assert list(open_setting(replace(OURS, held_out=("tools",)), data, 2, 0).held_out) == ["tools"]


def test_too_few_tasks_to_hold_out(data: Path) -> None:
    with pytest.raises(
        InputError, match=r"task.held_out: 3 of the 3 training tasks in .*fruit, tools, sums\) cannot be"
    ):
        open_setting(OURS, data, 3, 0)
    with pytest.raises(InputError, match=r"held_out: sums has rows without options; name another one"):
        open_setting(replace(OURS, held_out=("sums",)), data, 1, 0)
    trees = replace(OURS, train=(*OURS.train, "trees"), held_out=("trees",))
    with pytest.raises(InputError, match=r"no directory of the held-out task trees; name another one"):
        open_setting(trees, data, 1, 0)
    alone = replace(OURS, train=("fruit", "trees"), held_out=("fruit",))
    with pytest.raises(InputError, match=r"of the training tasks of ours only the held-out fruit is there; add one"):
        open_setting(alone, data, 1, 0)
    with pytest.raises(InputError, match=r"task.held_out: 1 of the 0 training tasks in .* \(none\) cannot be held out"):
        open_setting(replace(OURS, train=("trees",)), data, 1, 0)


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        InputError, match=r"empty: no task of the setting ours is there; expected birds/, fish/, \.\.\."
    ):
        open_setting(OURS, tmp_path / "empty", 1, 0)
    with pytest.raises(InputError, match="gone: no such directory"):
        open_setting(OURS, tmp_path / "gone", 1, 0)


def test_a_target_without_options_is_refused(data: Path) -> None:
    with pytest.raises(InputError, match="the target task sums has rows without options"):
        open_setting(Setting("odd", ("fruit", "tools"), ("birds", "sums")), data, 1, 0)


# ------------------------------------------------------------------------------------------------------------ examples


def test_examples(cfg: Change) -> None:
    held = replace(OURS, held_out=("tools",))
    found = load_setting(cfg(), held, 0)
    assert (found.name, found.version, found.objective, found.metrics, found.kind) == (
        "ours",
        1,
        "lm",
        ("task_mean",),
        "options",
    )
    assert Counter(e.group for e in found.train) == {"fruit": 8, "sums": 8}
    assert Counter(e.group for e in found.dev) == {"tools": 20}
    assert Counter(e.group for e in found.test) == {"birds": 6, "fish": 6}
    assert found.groups == {"tools": "macro_f1", "birds": "macro_f1", "fish": "macro_f1"}
    assert (found.labels, found.max_length, found.metric, found.repeated) == (
        (),
        256,
        "task_mean",
        {"dev": 0, "test": 0},
    )
    assert {e.answers for e in found.test} == {("\nwren", "\ncrow"), ("\neel", "\ncarp")}
    assert all(e.prompt.startswith("Item ") and "\n" not in e.prompt for e in found.test)
    assert load_setting(cfg(), held, 0) == found != load_setting(cfg(), held, 1)


def test_demonstrations_before_what_is_measured(cfg: Change) -> None:
    held = replace(OURS, held_out=("tools",))
    found = load_setting(cfg(num_fewshot=3), held, 0)
    assert found.max_length == 768
    assert all("\n" not in e.prompt for e in found.train)
    for split in (found.dev, found.test):
        assert all(len(e.prompt.split("\n\n\n")) == 4 for e in split)
    shown = {e.group: set() for e in found.dev + found.test}
    for example in found.dev + found.test:
        shown[example.group].add(tuple(example.prompt.split("\n\n\n")[:3]))
    assert all(len(contexts) == 1 for contexts in shown.values())  # one draw for a task
    asked = {e.prompt.split("\n\n\n")[3] for e in found.dev}
    (context,) = shown["tools"]
    assert not asked & {text.split("\n")[0] for text in context}  # tools has no test file: both are train rows
    assert len(found.dev) == 17
    other = load_setting(cfg(num_fewshot=3), held, 0, shots_seed=13)
    assert {tuple(e.prompt.split("\n\n\n")[:3]) for e in other.dev} != shown["tools"]
    assert [e.id for e in other.test] == [e.id for e in found.test]


def test_demonstrations_before_what_is_trained_on(cfg: Change) -> None:
    found = load_setting(cfg(num_fewshot=3), OURS, 0, demonstrates=True)
    contexts = set()
    for example in found.train:
        *shown, own = example.prompt.split("\n\n\n")
        assert len({text.split("\n")[0] for text in shown} - {own}) == 3
        assert all((" and " in text) == (example.group == "sums") for text in shown)
        contexts.add(tuple(shown))
    assert len(contexts) == len(found.train)  # a draw for each
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
    found = load_setting(cfg(objective="options"), replace(OURS, train=("fruit", "tools")), 0)
    assert found.objective == "options"
    with pytest.raises(InputError, match=r"task.objective: the training task sums has rows without options; use lm"):
        load_setting(cfg(objective="options"), OURS, 0)


def test_repeated_rows_are_counted(cfg: Change, data: Path) -> None:
    words = {"options": ["pear", "plum"]}
    write(data / "fruit" / "train.jsonl", rows("fruit", 8))  # all of them are taken
    same = [{**row, "task": "birds"} for row in rows("fruit", 4)]
    write(data / "birds" / "train.jsonl", same)
    write(data / "birds" / "test.jsonl", [*same[:3], {"input": "another", "output": "pear", **words}])
    write(data / "tools" / "test.jsonl", [{**row, "task": "tools"} for row in rows("fruit", 1)])
    write(data / "tools" / "train.jsonl", [{**row, "task": "tools"} for row in rows("fruit", 2)])
    found = load_setting(cfg(), replace(OURS, held_out=("tools",)), 0)
    assert found.repeated == {"dev": 1, "test": 3}


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
)  # fmt: skip
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
    found = load_setting(replace(cfg, num_fewshot=4), setting, 0, tiny_tokenizer, demonstrates=True)
    assert (len(found.train), len(found.dev), len(found.test)) == (120, 30, 80)
    assert set(found.groups) == {*opened.held_out, "ag_news", "dbpedia_14", "hate_speech18", "medical_questions_pairs"}
    assert len({e.id for e in found.train + found.dev + found.test}) == 230
