"""Every bad row and every odd file of a setting's task is named, with its line and the fix."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_rows
from tests.pool_rows import plain, topic
from zofo.data.multitask.pool import open_pool
from zofo.errors import InputError


def fault(root: Path, row: Any, after: int = 2) -> str:
    """What is said of one bad row behind good ones."""
    write_rows(root / "home_topics" / "train.jsonl", [*map(topic, range(after)), row])
    with pytest.raises(InputError) as caught:
        open_pool(root, "home_topics").train(5, 0)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": "gardn"}, r'the output "gardn" is none of the options: garden, .*; did you mean "garden"\?'),
        ({"options": ["garden"], "output": "garden"}, r'one option, "garden"; give two or more, or \[\] for free text'),
        ({"options": "garden, kitchen"}, r'"options" must be a list of texts'),
        ({"options": None}, r'"options" must be a list of texts'),
        ({"options": ["garden", 3]}, r'"options" must be a list of texts'),
        ({"options": ["garden", " "]}, r'"options" must be a list of texts, none of them empty'),
        ({"options": ["garden", "shed", "garden"], "output": "shed"}, r'the option "garden" occurs twice'),
        ({"output": ""}, r'"output" is empty; mend or drop the row'),
        ({"output": "", "input": "", "options": []}, r'"output" is empty'),
        ({"output": ["garden"]}, r'"output" must be a text, not list; of several right outputs, keep the one'),
        ({"input": 7}, r'"input" must be a text, not int$'),
        ({"task": "tools"}, r'a row of the task "tools" among those of "home_topics"'),
        ({"options": []}, r"no options, and home_topics/train.jsonl:1 has some"),
    ],
)
def test_bad_rows(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    said = fault(tmp_path, topic(2, **changes))
    assert re.search("^home_topics/train.jsonl:3: " + message, said), said


def test_no_options_first_names_the_row_without(tmp_path: Path) -> None:
    rows = [topic(0, options=[]), topic(1)]
    with pytest.raises(
        InputError, match=r"train.jsonl:1: no options, and home_topics/train.jsonl:2 has some; give all"
    ):
        plain(tmp_path, train=rows).train(1, 0)


def test_another_layout(tmp_path: Path) -> None:
    said = fault(tmp_path, {"text": "a", "label": 1, "option": ["x"]})
    assert 'train.jsonl:3: no "input"; a row has the keys task, input, output and options, this one: text, lab' in said
    row = {"input": "a", "output": "b", "option": ["b", "c"]}
    assert fault(tmp_path, row).endswith('this one: input, output, option; did you mean "option"?')


def test_not_json_and_empty(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "home_topics" / "train.jsonl", [topic(0)])
    path.write_text(path.read_text() + '{"input": "cut\n')
    with pytest.raises(InputError, match=r"^home_topics/train.jsonl:2: bad JSON: "):
        open_pool(tmp_path, "home_topics").train(1, 0)
    path.write_text("\n")
    with pytest.raises(InputError, match=r"train.jsonl: no rows"):
        open_pool(tmp_path, "home_topics").train(1, 0)


def test_a_row_without_its_task_and_with_the_other_spelling(tmp_path: Path) -> None:
    rows = [topic(0, task="home-topics"), {key: value for key, value in topic(1).items() if key != "task"}]
    assert len(plain(tmp_path, train=rows).train(9, 0)) == 2


def test_an_empty_input_is_allowed(tmp_path: Path) -> None:
    assert plain(tmp_path, train=[topic(0, input="")]).train(1, 0)[0].input == ""


def test_files_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "home_topics"
    write_rows(folder / "notes.txt", [])
    with pytest.raises(
        InputError, match=r"home_topics: no rows of home_topics; expected train.jsonl and test.jsonl, or M"
    ):
        open_pool(tmp_path, "home_topics")
    write_rows(folder / "train.jsonl", [topic(0)])
    write_rows(folder / "home-topics_16_13_train.jsonl", [topic(0)])
    with pytest.raises(InputError, match=r"home-topics_16_13_train.jsonl and train.jsonl are two forms"):
        open_pool(tmp_path, "home_topics")
    (folder / "home-topics_16_13_train.jsonl").rename(folder / "tools_16_13_train.jsonl")
    with pytest.raises(InputError, match=r"tools_16_13_train.jsonl is a file of the task tools; move it"):
        open_pool(tmp_path, "home_topics")
    (folder / "tools_16_13_train.jsonl").unlink()
    for name in ("dev", "validation"):
        write_rows(folder / f"{name}.jsonl", [topic(0)])
    with pytest.raises(InputError, match=r"validation.jsonl and dev.jsonl both hold the dev rows; keep one"):
        open_pool(tmp_path, "home_topics")
