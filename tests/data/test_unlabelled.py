"""Rows without answers become the prompts that the same rows with answers have; of the answers nothing is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_rows
from tests.task_files import NAMES, spec_of
from tests.unanswered import ANSWERS
from zofo import InputError
from zofo.config.sections import TaskConfig
from zofo.data.files import Record, read_file
from zofo.data.spec import maker, used_columns
from zofo.data.task import load_task
from zofo.data.unlabelled import asking

TURNS = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "is it good?"}]
SAID = {"role": "assistant", "content": "yes"}


def records(*rows: dict[str, Any], name: str = "rows.jsonl") -> list[Record]:
    return [Record(f"{name}:{i}", f"{name}:{i}", row) for i, row in enumerate(rows, 1)]


@pytest.mark.parametrize("name", NAMES)
def test_every_task_s_templates(name: str) -> None:
    """The prompt, the options and the prompt without input of a demonstration, from its other columns alone."""
    spec = spec_of(name)
    for template in list(spec.templates)[:3]:
        for number, row in enumerate(spec.demonstrations[:1]):
            answered = maker(spec, template)(Record("a", "a:1", row))
            only_answer = set(used_columns(spec).get("gold", ())) | set(used_columns(spec).get("reference", ()))
            asked_with = set().union(*(v for k, v in used_columns(spec).items() if k not in ("gold", "reference")))
            bare = {key: value for key, value in row.items() if key not in only_answer - asked_with}
            if spec.kind == "completion":
                bare = {key: value for key, value in bare.items() if key not in ANSWERS}
            try:
                how = asking(TaskConfig(name=name, template=template), [Record("a", "a:1", bare)], (), None)
            except InputError as error:
                pytest.fail(f"{name}, {template}, {number}: {error}")
            example = how.make(Record("a", "a:1", bare))
            assert (example.prompt, example.null_prompt) == (answered.prompt, answered.null_prompt)
            assert how.kind == ("options" if spec.kind == "options" else "text")
            if spec.kind == "options":
                assert example.answers == answered.answers
                assert not how.labels or len(how.labels) == len(example.answers)


LAYOUTS: dict[str, tuple[list[dict[str, Any]], dict[str, Any], tuple[str, ...]]] = {
    "labels": ([{"text": "a film", "label": "bad"}, {"text": "b\n", "label": "good"}], {}, ("bad", "good")),
    "choices": ([{"text": "a", "choices": ["x", "y"], "label": 0}, {"text": "b", "choices": '["p", "q"]', "label": 1}],
                {}, ()),
    "named": ([{"text": "a", "label": 0}, {"text": "b", "label": 1}], {"choices": ["no", "yes"]}, ()),
    "prompts": ([{"prompt": "a", "completion": " b"}, {"prompt": "c\n", "completion": "d"}], {}, ()),
    "messages": ([{"messages": [*TURNS, SAID]}, {"messages": [TURNS[1], SAID, TURNS[1], SAID]}], {}, ()),
    "turns": ([{"prompt": TURNS, "completion": [SAID]}, {"prompt": TURNS[1:], "completion": [SAID]}], {}, ()),
    "chat": ([{"text": "a film", "label": "bad"}, {"text": "b", "label": "good"}], {"apply_chat_template": True},
             ("bad", "good")),
    "chat and system": ([{"text": "a film", "label": "bad"}, {"text": "b", "label": "good"}],
                        {"apply_chat_template": True, "system": "be kind"}, ("bad", "good")),
    "chat of prompts": ([{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}],
                        {"apply_chat_template": True}, ()),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_of_one_s_own(layout: str, chat_tokenizer: Any, tmp_path: Path) -> None:
    rows, changes, labels = LAYOUTS[layout]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    cfg = TaskConfig(name=str(file), **changes)
    examples = {e.id: e for e in load_task(cfg, 0, chat_tokenizer, "test").test}
    bare = [{key: value for key, value in row.items() if key not in ANSWERS} for row in rows]
    read = read_file(write_rows(tmp_path / "bare" / "rows.jsonl", bare))
    how = asking(cfg, read, labels, chat_tokenizer)
    assert len(examples) == len(read) == len(rows)
    for record in read:
        example, theirs = how.make(record), examples[record.id]
        assert (example.prompt, example.cuttable, example.place) == (theirs.prompt, theirs.cuttable, record.place)
        assert (example.answers == theirs.answers) == (how.kind == "options")


def test_a_wrong_answer_is_not_read(tiny_tokenizer: Any) -> None:
    """A column of that name may hold anything: it is kept, and no more."""
    for row in ({"text": "a", "label": "who knows"}, {"text": "a", "label": [1, {}]}, {"text": "a", "label": None}):
        assert asking(TaskConfig(name="./x.jsonl"), records(row), ("b", "c"), tiny_tokenizer).make(records(row)[0])
    row = {"sentence": "a", "label": 77}
    assert asking(TaskConfig(name="sst2"), records(row), (), tiny_tokenizer).make(records(row)[0])


def test_a_conversation_that_ends_with_an_answer(chat_tokenizer: Any) -> None:
    how = asking(TaskConfig(name="./x.jsonl"), records({"messages": TURNS}), (), chat_tokenizer)
    open_end, answered = records({"messages": TURNS}, {"messages": [*TURNS, SAID]})
    assert how.make(open_end).prompt == how.make(answered).prompt


def test_texts_among_conversations(chat_tokenizer: Any) -> None:
    rows = records({"messages": TURNS}, {"prompt": "a"}, {"prompt": "b", "messages": None})
    how = asking(TaskConfig(name="./x.jsonl"), rows, (), chat_tokenizer)
    assert [how.make(row).prompt for row in rows[1:]] == ["a", "b"]


@pytest.mark.parametrize(
    ("row", "changes", "labels", "column", "words"),
    [
        ({"body": "a"}, {}, ("b", "c"), None, 'no column "text"; has: body.*--text-column NAME takes another'),
        (
            {"body": "a"},
            {},
            (),
            None,
            r"needs a column prompt or messages.*task.choices=\[...\].*has: body; --text",
        ),
        ({"body": "a"}, {}, ("b", "c"), "boddy", '--text-column: no column "boddy" in rows.jsonl; has: body; did'),
        ({"premise": "a"}, {"name": "copa"}, (), "premise", "--text-column: copa.yaml reads more than one column"),
        ({"text": "a"}, {"name": "sst2"}, (), None, 'sst2.yaml: template "default": no column "sentence"'),
        ({"text": "a"}, {"template": "defalt"}, ("b", "c"), None, 'task.template: own files have "default" and'),
        ({"prompt": [1]}, {}, (), None, 'rows.jsonl:1: "prompt" must be a list of'),
        ({"messages": []}, {}, (), None, "rows.jsonl:1: no turn to answer"),
        ({"messages": [SAID]}, {}, (), None, "rows.jsonl:1: no turn to answer"),
        ({"messages": "hello"}, {}, (), None, 'rows.jsonl:1: "messages" must be a list of'),
        ({"text": "a", "choices": ["x"]}, {}, (), None, "rows.jsonl:1: .*choices"),
        ({"text": "a"}, {"name": "qa-to-qa"}, (), None, "task: .* is many tasks; say with --task which one"),
    ],
)
def test_what_cannot_be_asked(
    row: dict[str, Any], changes: dict[str, Any], labels: tuple[str, ...], column: str | None, words: str,
    chat_tokenizer: Any,
) -> None:  # fmt: skip
    cfg = TaskConfig(**{"name": "./rows.jsonl", **changes})
    with pytest.raises(InputError, match=words):
        asking(cfg, records(row), labels, chat_tokenizer, column).make(records(row)[0])


def test_conversations_need_a_chat_template(tiny_tokenizer: Any) -> None:
    with pytest.raises(InputError, match=r'rows.jsonl:1: "messages" needs a model with a chat template'):
        asking(TaskConfig(name="./rows.jsonl"), records({"messages": TURNS}), (), tiny_tokenizer).make(
            records({"messages": TURNS})[0]
        )


def test_another_name_for_the_text(tiny_tokenizer: Any) -> None:
    (row,) = records({"body": "a film", "text": "not this"})
    assert asking(TaskConfig(name="./x.jsonl"), [row], ("b", "c"), tiny_tokenizer, "body").make(row).prompt == "a film"
    assert asking(TaskConfig(name="./x.jsonl"), [row], (), tiny_tokenizer, "body").make(row).prompt == "a film"
    assert "a film" in asking(TaskConfig(name="sst2"), [row], (), tiny_tokenizer, "body").make(row).prompt


def test_how_a_text_is_written(tiny_tokenizer: Any) -> None:
    (row,) = records({"prompt": "a"})
    assert asking(TaskConfig(name="./x.jsonl"), [row], (), tiny_tokenizer).decoding.max_new_tokens == 50
    cfg = TaskConfig(name="./x.jsonl", max_new_tokens=7, temperature=0.5, top_p=0.9)
    decoding = asking(cfg, [row], (), tiny_tokenizer).decoding
    assert (decoding.max_new_tokens, decoding.temperature, decoding.top_p) == (7, 0.5, 0.9)
