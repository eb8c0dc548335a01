"""Settings: the four files, one's own, which tasks are there, and which are held out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tiny_setting import OURS, write_ours
from zofo.config import registry
from zofo.data.multitask.setting import Setting, find_setting, open_setting
from zofo.errors import InputError

# From the configurations of MetaICL: training tasks, targets, targets of an unseen domain.
COUNTS = {
    "class-to-class": (43, 20, 4),
    "non-class-to-class": (37, 20, 4),
    "qa-to-qa": (37, 22, 1),
    "non-qa-to-qa": (33, 22, 1),
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_ours(tmp_path / "data")


def own_file(tmp_path: Path, **content: Any) -> str:
    path = tmp_path / "my_setting.yaml"
    base = {"description": "mine", "train": ["fruit", "tools"], "target": ["birds", "fish"]}
    path.write_text(yaml.safe_dump({k: v for k, v in {**base, **content}.items() if v is not None}), encoding="utf-8")
    return str(path)


# --------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(("name", "counts"), COUNTS.items())
def test_the_four_settings(name: str, counts: tuple[int, int, int]) -> None:
    setting = find_setting(name)
    assert setting == find_setting(name.replace("-", "_"))
    assert setting is not None
    assert (len(setting.train), len(setting.target), len(setting.unseen_domain)) == counts
    assert setting.name == name
    assert "MetaICL (Min et al., NAACL 2022, arXiv 2110.15943)" in setting.source
    assert registry.describe("settings", name) == setting.description
    assert str(counts[0]) in setting.description


def test_the_settings_of_one_kind_share_their_targets() -> None:
    settings = {name: find_setting(name) for name in registry.names("settings")}
    assert list(settings) == sorted(COUNTS)
    for one, other in (("class-to-class", "non-class-to-class"), ("qa-to-qa", "non-qa-to-qa")):
        a, b = settings[one], settings[other]
        assert a is not None
        assert b is not None
        assert set(a.target) == set(b.target)
    assert {"glue-cola", "trec"} <= set(settings["class-to-class"].train)  # type: ignore[union-attr]
    assert settings["qa-to-qa"].unseen_domain == ("unifiedqa:mctest",)  # type: ignore[union-attr]


def test_own_file(tmp_path: Path) -> None:
    mine = find_setting(own_file(tmp_path, unseen_domain=["fish"], held_out=["tools"], source="my shelf"))
    expected = Setting("my-setting", ("fruit", "tools"), ("birds", "fish"), ("fish",), ("tools",), "mine", "my shelf")
    assert mine == replace(expected, file="my_setting.yaml")


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
        ({"tran": ["fruit"]}, r'tran: unknown field; did you mean "train"\?'),
        ({"train": None}, r"train: required: a list of tasks"),
        ({"target": []}, r"target: required: a list of tasks"),
        ({"train": ["fruit", False]}, r"train.1: expected a string, got false; quote it"),
        ({"train": "fruit"}, r'train: expected a list of strings, got "fruit"'),
        ({"train": ["glue-rte", "fruit", "glue_rte"]}, r"train: two tasks of one name: glue-rte, glue_rte"),
        ({"train": ["fruit", "fruit"]}, r"train: two tasks of one name: fruit, fruit"),
        ({"train": ["my-fish", "fruit"], "target": ["my_fish"]}, r"target: .* trained on is not new: my_fish"),
        ({"unseen_domain": ["bird"]}, r'unseen_domain: no task "bird" in target; did you mean "birds"\?'),
        ({"held_out": ["fish"]}, r'held_out: no task "fish" in train'),
        ({"held_out": ["fruit", "tools"]}, r"held_out: holds every task of train; leave one to train on"),
    ],
)
def test_bad_files(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"my_setting.yaml: {message}"):
        find_setting(own_file(tmp_path, **content))


# ------------------------------------------------------------------------------------------------------ what is there


def test_all_tasks_are_there(data: Path) -> None:
    opened = open_setting(OURS, data, 1, 0)
    assert list(opened.target) == ["birds", "fish"]
    assert sorted([*opened.train, *opened.held_out]) == ["fruit", "sums", "tools"]
    assert opened.missing_train == opened.missing_target == ()
    assert opened.coverage == ["ours: 3 of 3 training tasks (100 %), 2 of 2 target tasks (100 %)"]


def test_missing_tasks_are_named(data: Path) -> None:
    more = replace(OURS, train=(*OURS.train, "trees", "herbs"), target=(*OURS.target, "stars"))
    opened = open_setting(more, data, 1, 0)
    assert opened.missing_train == ("trees", "herbs")
    assert opened.missing_target == ("stars",)
    assert opened.coverage == [
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
