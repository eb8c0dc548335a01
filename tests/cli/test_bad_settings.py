"""Bad settings: the file, the directory, fields of the task and of the methods, each refused by name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.setting_files import write_rows
from tests.small_setting import SETTING, make_setting, mood

Refusal = Callable[..., str]


@pytest.mark.parametrize("verb", ["train", "meta-test"])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target": ["film", "mood"]}, ["small.yaml", "mood", "trained on"]),
        ({"train": ["my-mood", "sort"], "target": ["film", "my_mood"]}, ["my_mood", "trained on"]),
        ({"train": ["mood", "sort", "sort"]}, ["two tasks of one name", "sort"]),
        ({"train": ["a-b", "a_b", "sort"]}, ["two tasks of one name: a-b, a_b"]),
        ({"unseen_domain": ["mood"]}, ["unseen_domain", "mood"]),
        ({"held_out": ["film"]}, ["held_out", "film"]),
        ({"held_out": SETTING["train"]}, ["held_out", "leave one"]),
        ({"tragets": ["film"]}, ["tragets: unknown field", 'did you mean "target']),
        ({"train": "mood"}, ["train: expected a list"]),
        ({"train": []}, ["train: required: a list of tasks"]),
        ({"train": [1, 2]}, ["train.0: expected a string, got 1; quote it", "train.1: expected"]),
    ],
)
def test_a_settings_file(verb: str, changes: dict[str, Any], said: list[str], spoilt: Path, refusal: Refusal) -> None:
    spoilt.write_text(yaml.safe_dump({**SETTING, **changes}))
    error = refusal(verb, spoilt)
    for text in said:
        assert text in error


def test_everything_wrong_in_a_settings_file_is_said_at_once(spoilt: Path, refusal: Refusal) -> None:
    spoilt.write_text(yaml.safe_dump({**SETTING, "target": ["film", "mood"], "held_out": ["nobody"]}))
    error = refusal("train", spoilt)
    assert all(text in error for text in ("trained on", "nobody", "quiz")), error  # quiz: no target, but unseen


@pytest.mark.parametrize("verb", ["train", "meta-test"])
def test_names_and_directories(verb: str, small_setting: Path, refusal: Refusal, tmp_path: Path) -> None:
    data = small_setting.parent / "data"
    assert 'did you mean "class-to-class"' in refusal(verb, "class-to-clas", data=data)
    assert "--data" in refusal(verb, small_setting, data=None) or "task.data" in refusal(verb, small_setting, data=None)
    assert "no-such-dir" in refusal(verb, small_setting, data=tmp_path / "no-such-dir")
    (tmp_path / "empty").mkdir()
    error = refusal(verb, small_setting, data=tmp_path / "empty")
    assert "no task of the setting small is there" in error
    assert "film/" in error
    error = refusal(verb, "class-to-class", data=data)
    assert "no task of the setting class-to-class is there" in error
    assert "none.yaml" in refusal(verb, tmp_path / "none.yaml", data=data)


@pytest.mark.parametrize("verb", ["train", "meta-test"])
def test_a_setting_without_any_of_its_targets(verb: str, spoilt: Path, refusal: Refusal) -> None:
    for name in ("film", "kind", "quiz"):
        shutil.rmtree(spoilt.parent / "data" / name)
    error = refusal(verb, spoilt)
    assert "no target task of small is there" in error
    assert "film/" in error


def test_held_out_too_large(tmp_path: Path, refusal: Refusal) -> None:
    setting = make_setting(tmp_path / "own", held_out=None)
    assert refusal("train", setting, "task.held_out=4").startswith("task.held_out: 4 of the 4 training tasks")
    assert "must be >= 1" in refusal("train", setting, "task.held_out=0")


@pytest.mark.parametrize("verb", ["train", "meta-test"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("task.template=chanel", 'did you mean "channel"'),
        ("task.scoring=pmy", 'did you mean "pmi"'),
        ("task.choices=[a,b]", "task.choices"),
        ("task.apply_chat_template=true", "task.apply_chat_template"),
        ("task.metric=acuracy", "task.metric"),
        ("task.max_new_tokens=3", "task.max_new_tokens"),
        ("task.fewshot=fixed", "task.fewshot"),
        ("task.held_outs=1", 'did you mean "held_out"'),
    ],
)
def test_fields_of_the_task(verb: str, change: str, said: str, small_setting: Path, refusal: Refusal) -> None:
    assert said in refusal(verb, small_setting, change)


def test_a_channel_model_has_no_pmi(small_setting: Path, refusal: Refusal) -> None:
    for verb in ("train", "meta-test"):
        assert "task.scoring" in refusal(verb, small_setting, "task.template=channel", "task.scoring=pmi")


def test_methods_of_many_tasks_refuse_one(tmp_path: Path, refusal: Refusal) -> None:
    file = tmp_path / "rows.jsonl"
    write_rows(file, [{"text": row["input"], "label": row["output"]} for row in mood("x", 30, 1)])
    for method in ("bank", "metaicl", "multi-task-ft"):
        error = refusal("train", file, data=None, method=method)
        assert "many tasks" in error
        assert "class-to-class" in error
    file.unlink()


def test_settings_of_the_methods(small_setting: Path, refusal: Refusal) -> None:
    assert "deploy" in refusal("train", small_setting, "method.deploy=s")
    assert 'did you mean "per-task"' in refusal("train", small_setting, "method.adapters=pertask")
    assert "must be >= 1, got 0" in refusal("train", small_setting, "method.tasks_per_step=0")
    assert "multi-task-ft" in refusal("train", small_setting, "task.num_fewshot=0", method="metaicl")
    assert "metaicl" in refusal("train", small_setting, "task.num_fewshot=2", method="multi-task-ft")
    assert "upper_data" in refusal("train", small_setting, "method.upper_data=dev")
