"""The README.md of a run and of an export says how to ask the model: each of its commands is run, from elsewhere."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import sentiment_rows, write_rows
from tests.unanswered import without_answers
from zofo import finetune
from zofo.cli import main as cli
from zofo.config import registry
from zofo.config.sections import TaskConfig
from zofo.data.asking import how_to_ask
from zofo.data.jinja import ENV
from zofo.data.spec import load_spec

SMALL: dict[str, Any] = {"max_steps": 2, "batch_size": 4, "eval_steps": 2, "save_steps": 2}
SUMS = [{"prompt": f"{i} and one is", "completion": f" {i + 1}"} for i in range(40)]
PHRASES = [{"sentence": f"film {i} ", "label": i % 2} for i in range(40)]


def squad() -> list[dict[str, Any]]:
    shown = load_spec(registry.load("tasks", "squad")).demonstrations
    return [{**shown[i % 2], "question": f"{shown[i % 2]['question']} ({i})"} for i in range(40)]


KINDS: dict[str, tuple[str | None, list[dict[str, Any]]]] = {
    "labels": (None, sentiment_rows(40)),
    "completions": (None, SUMS),
    "sst2": ("sst2", PHRASES),
    "squad": ("squad", squad()),
}


def commands(readme: str, **meant: str | Path) -> list[list[str]]:
    """The arguments of its commands, with what stands for its capitals."""
    (block,) = re.findall(r"```sh\n(.*?)```", section(readme), re.S)
    every = [shlex.split(line) for line in block.splitlines()]
    assert [line[:2] for line in every] == [["zofo", "generate"], ["zofo", "predict"], ["zofo", "eval"]]
    return [[str(meant.get(word, word)) for word in line[1:]] for line in every]


@pytest.mark.parametrize("kind", KINDS)
def test_each_command_is_run_from_anywhere(
    kind: str, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, rows = KINDS[kind]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    task: Any = {"name": name or str(path), "data": str(path) if name else None}
    run = finetune(str(tiny_model_dir), task, "mezo", output_dir=tmp_path / "run", **SMALL)
    out = run.export(tmp_path / "export")
    asked = write_rows(tmp_path / "asked.jsonl", rows[:3])
    bare = write_rows(tmp_path / "bare.jsonl", without_answers(rows[:3]))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for folder, word in ((run.path, "RUN"), (out, "HERE")):
        readme = (folder / "README.md").read_text("utf-8")
        assert word in readme.partition("## How to ask it")[0], "what it stands for"
        meant: dict[str, Any] = {word: folder, "ROWS.jsonl": bare}
        write, answer, measure = commands(readme, TEXT="film 3 was", FILE=asked, **meant)
        capsys.readouterr()
        assert cli.run([*write, "--max-new-tokens", "3"]) == 0
        assert json.loads(capsys.readouterr().out)["prompt"] == "film 3 was"
        assert cli.run([*answer, "--overwrite"]) == 0
        answered = [json.loads(line) for line in Path("answered.jsonl").read_text().splitlines()]
        assert [{k: row[k] for k in given} for row, given in zip(answered, without_answers(rows[:3]))] == [
            *without_answers(rows[:3])
        ]
        assert all(("prediction" in row) == ("`prediction` and a probability" in readme) for row in answered)
        assert all(("text" in row) == ("`text` beside" in readme) or "label" in rows[0] for row in answered)
        assert cli.run(measure) == 0
        answers = [json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()]
        assert len(answers) == 3
        check_prompts(readme, answers, rows[:3])
        check_options(readme, answers)
        assert len(section(readme)) < 3000


def section(readme: str) -> str:
    return readme.partition("## How to ask it")[2].partition("\n## ")[0]


def check_prompts(readme: str, answers: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    """That the text which the README describes is what was evaluated."""
    blocks = re.findall(r"```jinja\n(.*?)\n```", readme, re.S)
    expected = [
        ENV.from_string(blocks[0]).render(row) if blocks else row.get("text", row.get("prompt")) for row in rows
    ]
    assert sorted(answer["prompt"] for answer in answers) == sorted(map(str, expected))
    assert ("the text as it is" in readme) == (not blocks)


def check_options(readme: str, answers: list[dict[str, Any]]) -> None:
    chosen = "An answer is chosen, not written"
    assert (chosen in readme) == (len(answers[0]["answers"]) > 1)
    listed = readme.partition("how likely the options ")[2].partition(" are after")[0]
    assert re.findall("`( [^`]+)`", listed) == (answers[0]["answers"] if chosen in readme else [])


def test_a_setting_a_chat_and_a_task_file_that_is_gone(tmp_path: Path) -> None:
    many = how_to_ask(TaskConfig(name="class-to-class", data="d"), "RUN", [], "task_mean")
    assert re.findall("^zofo.*", many, re.M) == ["zofo eval RUN --data FILE --output answers.jsonl"]
    chat = how_to_ask(TaskConfig(name="./x.csv", apply_chat_template=True, system="Be brief"), "RUN", [], "loss")
    assert "zofo generate RUN --prompt TEXT --chat\n" in chat
    assert 'a system turn, "Be brief", which `--chat` puts there too (`--system TEXT` another one).' in chat
    gone = how_to_ask(TaskConfig(name=str(tmp_path / "gone.yaml")), "RUN", ["a", "b"], "accuracy")
    assert "the options ` a`, ` b` are" in gone
    shown = how_to_ask(TaskConfig(name="squad", template="plain", max_new_tokens=7, temperature=0.5), "RUN", [], "loss")
    assert "It ends in `'\\n'`." in shown
    assert r"--prompt TEXT --max-new-tokens 7 --temperature 0.5 --stop '\n'" in shown
    assert "the options of each row" in how_to_ask(TaskConfig(name="copa"), "RUN", [], "accuracy")


def test_nothing_in_it_steers_a_terminal_or_is_endless(tmp_path: Path) -> None:
    labels = [f"\x1b[2J`label`{i}{'x' * 100}" for i in range(200)]
    text = how_to_ask(TaskConfig(name="./x.csv"), "RUN", labels, "accuracy")
    assert "\x1b" not in text
    assert "and 180 more" in text
    assert "`label`" not in text, "a label's own marks end no word"
    spec = yaml.safe_load(registry.load("tasks", "sst2").read_text())
    prompt = "{{ sentence }} ```` \x1b\u202e it was" + " long" * 5000
    spec["templates"]["default"]["prompt"] = prompt
    path = tmp_path / "long.yaml"
    path.write_text(yaml.safe_dump(spec))
    shown = how_to_ask(TaskConfig(name=str(path), system="s" * 9999, apply_chat_template=True), "RUN", [], "accuracy")
    assert not {"\x1b", "\u202e"} & set(shown)
    assert "`````jinja\n{{ sentence }}" in shown, "a longer fence than what it holds"
    for each in (text, shown):
        assert len(each) < 3500
