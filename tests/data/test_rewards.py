"""A reward from a Python file: what it is called with, and every fault of it in one line that names it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, write_rows
from zofo.config.resolve import resolve
from zofo.config.sections import TaskConfig
from zofo.data import load_task
from zofo.data.chat import NoTokenizerYet
from zofo.data.example import TaskData
from zofo.data.rewards import Reward, load_reward
from zofo.errors import InputError

ROWS = [{"prompt": f"Say {i}", "answer": str(i)} for i in range(12)]


def data_of(folder: Path, rows: list[dict[str, Any]], **task: Any) -> TaskData:
    file = write_rows(folder / "rows.jsonl", rows)
    return load_task(TaskConfig(name=str(file), metric="my.py:reward", **task), 0, NoTokenizerYet())


def reward_of(folder: Path, body: str, name: str = "reward") -> Reward:
    (folder / "my.py").write_text(body, encoding="utf-8")
    return load_reward(f"{folder / 'my.py'}:{name}")


RETURNS = "def reward(completions, **columns): return {}"


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("def reward(", "the file cannot be run: line 1 SyntaxError: '(' was never closed"),
        ("x = 1\nraise SystemExit(3)", "the file cannot be run: line 2 SystemExit: 3"),
        ("import no_such_module_of_mine", "line 1 ModuleNotFoundError: No module named 'no_such_module_of_mine'"),
        ("def rewards(completions): ...", 'my.py has no function reward; did you mean "rewards"?'),
        ("reward = 3", "my.py has no function reward; it has: none"),
        ("def reward(*texts): return texts", "takes *args alone; write def reward(completions, **columns)"),
        ("def reward(texts, /): return texts", "takes texts by its place alone"),
        (
            "def reward(completions, solution): ...",
            "takes solution, and rows has no such column (columns: prompt, answer)",
        ),
        ("def reward(completion, **c): ...", "takes completion, and rows has no such column"),
        ("def reward(completions, **c): raise KeyError('a\\nb')", "raised KeyError: 'a\\nb' (row "),
        (RETURNS.format("None"), "gave None for 3 texts, not a list with a number for each (row "),
        (RETURNS.format("3.0"), "gave a float for 3 texts"),
        (RETURNS.format("[1.0]"), "gave 1 numbers for 3 texts"),
        (RETURNS.format("['a' for _ in completions]"), "gave a str, not a number (row "),
        (RETURNS.format("[None for _ in completions]"), "gave None, not a number (row "),
        (RETURNS.format("[float('nan') for _ in completions]"), "gave nan, not a finite number (row "),
        ("import random\ndef reward(completions): return [random.random() for _ in completions]", "for the same text"),
        ("async def reward(completions): return [1.0 for _ in completions]", "gave a coroutine for 3 texts"),
    ],
)
def test_every_fault_is_a_line_that_names_the_function(body: str, fault: str, tmp_path: Path) -> None:
    data = data_of(tmp_path, ROWS)
    with pytest.raises(InputError) as error:
        reward_of(tmp_path, body).fitted(data)
    assert str(error.value).startswith("task.metric: ")
    assert fault in str(error.value)
    assert "my.py" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_row_that_raises_is_named(tmp_path: Path) -> None:
    data = data_of(tmp_path, ROWS)
    body = "def reward(completions, **columns):\n    return [1 / (int(a) - 5) for a in columns['answer']]"
    five = next(e for e in [*data.train, *data.dev, *data.test] if e.prompt == "Say 5")
    reward = replace(reward_of(tmp_path, body), columns=("answer",))
    split = next(split for split in (data.train, data.dev, data.test) if five in split)
    with pytest.raises(InputError, match=rf"raised ZeroDivisionError: .* \(row {five.where}\)"):
        reward([["x"]] * len(split), split)


def test_the_arguments_are_those_of_trl(tmp_path: Path) -> None:
    """Texts for texts, messages for messages; a column for each, None where a row has none; several texts a row."""
    rows: list[dict[str, Any]] = [{**row, "tags": ["a"]} for row in ROWS]
    turns = [{"role": "system", "content": "S"}]
    rows += [{"prompt": [*turns[:1], {"role": "user", "content": f"Q{i}"}], "answer": None} for i in range(12)]
    data = data_of(tmp_path, rows, dev_examples=4, test_examples=4)
    body = "seen = []\ndef reward(prompts, completions, **columns):\n"
    body += "    seen.append((prompts, completions, columns))\n    columns['answer'].clear()\n"
    body += "    return [len(prompts)] * len(prompts)"
    reward = reward_of(tmp_path, body).fitted(data)
    seen = reward.function.__globals__["seen"]
    seen.clear()
    text = next(e for e in data.train if e.cuttable is None)
    chat = next(e for e in data.train if e.cuttable is not None)
    assert reward([["x", "y"], ["z"]], [text, chat]) == [[3.0, 3.0], [3.0]]
    prompts, completions, columns = seen[0]
    assert prompts == [text.prompt, text.prompt, [*turns, {"role": "user", "content": chat.prompt.split("\n")[1]}]]
    assert completions == ["x", "y", [{"role": "assistant", "content": "z"}]]
    assert columns["tags"] == [["a"], ["a"], None]
    assert reward([["x"]], [text]) == [[1.0]]  # what it did to its arguments is not seen by the next call
    named = reward_of(
        tmp_path, "def reward(completions, answer): return [float(a in c) for c, a in zip(completions, answer)]"
    )
    answer = str(text.source and text.source.row["answer"])
    assert named.fitted(data_of(tmp_path, ROWS))([[answer, "no"]], [text]) == [[1.0, 0.0]]


def test_nothing_is_written_beside_the_file_and_files_beside_it_are_found(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "helper_of_my_reward.py").write_text("WORD = 'yes'", encoding="utf-8")
    body = "from helper_of_my_reward import WORD\ndef reward(completions): return [WORD in c for c in completions]"
    before = {"helper_of_my_reward.py", "my.py"}
    reward = reward_of(tmp_path / "mine", body)
    assert {path.name for path in (tmp_path / "mine").iterdir()} - {"__pycache__"} == before
    assert reward([["yes"], ["no"]], data_of(tmp_path, ROWS).train[:2]) == [[1.0], [0.0]]


@pytest.mark.parametrize(
    ("metric", "fault"),
    [
        ("my.py", "which function of my.py? give my.py:FUNCTION"),
        ("my.py:", 'expected FILE.py:FUNCTION, got "my.py:"'),
        ("my.py:a.b", "expected FILE.py:FUNCTION"),
        ("my.py:accuracy", "zofo has a measure of the name accuracy; rename the function"),
        ("no/such/file.py:reward", "task.metric: no such file: no/such/file.py"),
        ("python:reward", "is a function that a call in Python gave"),
    ],
)
def test_a_name_that_is_none(metric: str, fault: str) -> None:
    def load() -> None:
        resolve(model="m", task={"name": "squad", "metric": metric}, method="mezo", train={"output_dir": "o"})
        load_reward(metric)

    with pytest.raises(InputError) as error:
        load()
    assert fault in str(error.value)


def test_options_are_not_written(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "labels.jsonl", [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}] * 9)
    for name in (str(file), "sst2"):
        with pytest.raises(InputError, match="has options to choose from, and a reward is of texts that are written"):
            load_task(TaskConfig(name=name, metric="my.py:reward"), 0)
    with pytest.raises(InputError, match=r"does not measure a setting"):
        load_task(TaskConfig(name="class-to-class", data=str(tmp_path), metric="my.py:reward"), 0)


def test_the_examples_of_the_page() -> None:
    def of(name: str, texts: list[Any], **columns: Any) -> list[float]:
        return load_reward(f"{ROOT / 'examples' / 'rewards.py'}:{name}").function(completions=texts, **columns)

    assert of("plain_words", ["It is a cat", "extraordinary magnificent cat", "a b", ""]) == [1.0, 1 / 3, 0.0, 0.0]
    assert of("brief", ["Yes.", [{"role": "assistant", "content": "No"}], "a " * 39 + "b."]) == [1.0, 0.5, 0.5]
    assert of("tagged", ["<answer> 4 </answer>", "<answer>5</answer>", "4"], answer=["4"] * 3) == [1.0, 0.5, 0.0]
