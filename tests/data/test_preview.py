"""What is shown and found before training: prompts, lengths, cuts, labels, what splits share, what cannot fit."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CHAT_TEMPLATE, make_tokenizer
from zofo import finetune
from zofo.config import registry
from zofo.config.sections import TaskConfig
from zofo.data import Example, TaskData, load_task
from zofo.data.preview import preview, shown
from zofo.data.spec import load_spec
from zofo.data.tokenization import tokenize_all, tokenize_prompt
from zofo.errors import InputError

Write = Callable[[str, list[dict[str, Any]]], Path]


def of(data: TaskData, limit: int | None = None) -> list[str]:
    """The lines about train, dev and test."""
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 10**30
    encoded = {
        name: tokenize_all(tokenizer, getattr(data, name), limit, data.encodes, data.ends, name != "train")
        for name in ("train", "dev", "test")
    }
    return list(preview(data, encoded))


def made(kind: Any, *, train: list[Example], dev: Any = (), test: Any = (), **more: Any) -> TaskData:
    objective = "options" if kind == "options" else "lm"
    labels = more.pop("labels", ())
    return TaskData("t", 1, objective, ("accuracy",), train, list(dev), list(test), labels, kind, **more)


def option(i: int, prompt: str, gold: int, *answers: str) -> Example:
    return Example(f"t/{i}", prompt, answers or (" bad", " good"), (gold,))


def test_three_prompts_and_their_answers() -> None:
    train = [option(i, f"film {i} was", i % 2) for i in range(5)]
    lines = of(made("options", train=train))
    assert lines[:9] == [
        "--- t/0",
        "film 0 was",
        "    answers: *' bad' | ' good'",
        "--- t/1",
        "film 1 was",
        "    answers: ' bad' | *' good'",
        "--- t/2",
        "film 2 was",
        "    answers: *' bad' | ' good'",
    ]
    assert len(lines) == 10, "and a line about train"
    assert of(made("options", train=[], test=train[:1]))[:2] == ["--- t/0", "film 0 was"], "of test without train"


def test_completions_many_answers_and_references() -> None:
    assert list(shown(Example("x", "say", (" hello",), (0,)))) == ["--- x", "say", "    answer: *' hello'"]
    many = Example("x", "which", tuple(f" {i}" for i in range(13)), (2, 11))
    first_ten = " | ".join(f"{'*' * (i == 2)}' {i}'" for i in range(10))
    assert list(shown(many))[2] == f"    answers: {first_ten} and 3 more"
    asked = replace(many, answers=(" 4",), gold=(0,), reference=["4", "four"])
    assert list(shown(asked))[2:] == ["    answer: *' 4'", "    compared with: ['4', 'four']"]


def test_long_ones_are_shortened_in_the_middle() -> None:
    text = "".join(f"{i:05d}" for i in range(121))  # 605 characters
    (_, prompt, _, compared) = shown(Example("x", text, (" y",), (0,), reference="r" * 400))
    assert prompt == f"{text[:300]} [...] {text[305:]}"
    assert compared == f"    compared with: '{'r' * 299} ..."
    whole = text[:600]
    assert list(shown(Example("x", whole, (" y",), (0,), reference="r" * 298)))[1:] == [
        whole,
        "    answer: *' y'",
        f"    compared with: '{'r' * 298}'",
    ]


def test_lengths_and_what_is_cut() -> None:
    """Rows of <s> and n times " dog" (the first one "dog" in three letters), the answer's last token is not read."""
    tokenizer = make_tokenizer()
    train = [option(i, " dog" * n, 0, " dog", " is") for i, n in enumerate([10] * 49 + [20] * 41 + [30] * 9 + [90])]
    assert len(tokenizer(" dog" * 10)["input_ids"]) == 11
    (line,) = [line for line in of(made("options", train=train)) if line.startswith("train")]
    want = "train: 100 examples, tokens 21 (median) 31 (90 %) 91 (99 %) 91 (longest)"
    assert line == f"{want}; right: answer 0: 100"
    (line,) = [line for line in of(made("options", train=train), 24) if line.startswith("train")]
    assert line.startswith("train: 100 examples, tokens 21 (median) 23 (90 %) 23 (99 %) 23 (longest), 10 cut on the")
    one = of(made("options", train=train[:1]))[-1]
    assert one.startswith("train: 1 examples, tokens 11 (median) 11 (90 %) 11 (99 %) 11 (longest)")


def test_balance_of_labels() -> None:
    train = [option(i, f"film {i}", int(i > 2)) for i in range(10)]
    lines = of(made("options", train=train, dev=train[:2], test=train[5:], labels=("negative", "positive")))
    assert [line.partition("; ")[2] for line in lines[-3:]] == [
        "right: negative 3, positive 7",
        "right: negative 2, positive 0",
        "right: negative 0, positive 5",
    ]
    examples = [Example(f"t/{i}", f"p {i}", (f" a{i}", f" b{i}", f" c{i}")[: 2 + i % 2], (i % 2,)) for i in range(5)]
    assert of(made("options", train=examples))[-1].endswith("; right: answer 0: 3, answer 1: 2")
    several = [*train, Example("t/x", "film x", (" bad", " good"), (0, 1))]
    assert "right" not in of(made("options", train=several))[-1]
    texts = [Example(f"t/{i}", f"p {i}", (" a",), (0,), reference="a") for i in range(3)]
    assert "right" not in of(made("generation", train=texts))[-1]
    assert "right" not in of(made("completion", train=texts))[-1]


# ------------------------------------------------------------------------------------------------------- real tasks


def test_a_line_for_each_split_that_has_rows(write_jsonl: Write, tmp_path: Path) -> None:
    rows = load_spec(registry.load("tasks", "squad")).demonstrations
    for name in ("train", "validation", "test"):
        write_jsonl(f"{name}.jsonl", [{**row, "question": f"{row['question']} ({name})"} for row in rows])
    lines = of(load_task(TaskConfig(name="squad", data=str(tmp_path)), 0))
    assert [line.split(":")[0] for line in lines if re.match(r"(train|dev|test):", line)] == ["train", "dev", "test"]
    assert "    answer: *' the brothers Kuhn'" in lines
    assert "    compared with: ['the brothers Kuhn', 'brothers Kuhn']" in lines
    only = of(load_task(TaskConfig(name="squad", data=str(tmp_path)), 0, only="test"))
    assert [line.split(":")[0] for line in only if re.match(r"(train|dev|test):", line)][-1] == "test"


@pytest.mark.parametrize("more", [{}, {"num_fewshot": 2}, {"apply_chat_template": True}])
def test_rows_that_splits_share(more: dict[str, Any], write_jsonl: Write, tmp_path: Path) -> None:
    """With demonstrations or a chat around the prompts it is the same rows that are shared."""
    rows = [{"sentence": f"film {i}", "label": i % 2} for i in range(8)]
    write_jsonl("train.jsonl", [*rows, rows[0]])
    new = [{"sentence": "new", "label": 1}, {"sentence": "film 1", "label": 0}]
    write_jsonl("validation.jsonl", [rows[0], rows[3], *new])
    write_jsonl("test.jsonl", [{"sentence": f"another {i}", "label": 0} for i in range(3)])
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    data = load_task(TaskConfig(name="sst2", data=str(tmp_path), **more), 0, tokenizer)
    assert data.repeated == {"dev": 3, "test": 0}, "prompt and answers: the label does not matter"
    warnings = [line for line in preview(data, {}) if line.startswith("warning")]
    assert warnings == ["warning: 3 of 4 dev examples are training examples too: drop them from the train file"]


def test_a_dev_set_that_is_cut_from_train_shares_nothing(write_jsonl: Write, tmp_path: Path) -> None:
    rows = [{"sentence": f"film {i % 12}", "label": 0} for i in range(30)]
    write_jsonl("train.jsonl", rows)
    data = load_task(TaskConfig(name="sst2", data=str(tmp_path)), 0)
    assert data.repeated == {"dev": 0, "test": 0}
    assert {e.prompt for e in data.train} & {e.prompt for e in data.dev + data.test} == set()


@pytest.mark.parametrize("name", ["copa", "gsm8k", "sst2", "squad"])
def test_shared_rows(name: str, shared_data: Path) -> None:
    """Real rows: three prompts, a line a split with its number of rows, and a warning for exactly what is shared."""
    few: dict[str, Any] = {"train_examples": 100, "dev_examples": 20, "test_examples": 20, "num_fewshot": 2}
    data = load_task(TaskConfig(name=name, data=str(shared_data / name), **few), 0)
    lines = of(data)
    assert sum(line.startswith("--- ") for line in lines) == 3
    for split in ("train", "dev", "test"):
        (line,) = [line for line in lines if line.startswith(f"{split}: ")]
        assert line.startswith(f"{split}: {len(getattr(data, split))} examples, tokens ")
        assert ("right: " in line) == (data.kind == "options")
    warned = [line for line in lines if line.startswith("warning")]
    assert len(warned) == sum(n > 0 for n in data.repeated.values())
    known = {e.prompt + e.answers[e.gold[0]] for e in data.train}
    for e in data.dev + data.test:
        first = next(text for text in known if e.prompt.startswith(f"{text}\n\n"))
        assert any(e.prompt.startswith(f"{first}\n\n{text}\n\n") for text in known - {first})


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_run_shows_it(
    dry_run: bool, tiny_model_dir: Path, write_jsonl: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"sentence": f"film {i}", "label": i % 2} for i in range(8)]
    write_jsonl("train.jsonl", [*rows, {"sentence": "dog " * 40, "label": 1}])
    for name in ("validation", "test"):
        write_jsonl(f"{name}.jsonl", rows[:2])
    finetune(
        str(tiny_model_dir),
        "sst2",
        "bilevel-zofo",
        output_dir=tmp_path / "out",
        dry_run=dry_run,
        max_steps=2,
        batch_size=2,
        overrides=[f"task.data={tmp_path}", "model.max_length=20", "method.inner_steps=1"],
    )
    captured = capsys.readouterr()
    text = captured.out if dry_run else captured.err
    assert len(re.findall(r"^--- sst2/train/\d$", text, re.MULTILINE)) == 3
    assert "warning: 2 of 2 dev examples are training examples too" in text
    assert "warning: 2 of 2 test examples are training examples too" in text
    sizes = dict(re.findall(r"^(\w+): (\d+) examples, tokens", text, re.MULTILINE))
    assert sizes == {"f": "3", "p": "6", "dev": "2", "test": "2"}
    assert len(re.findall(r", 1 cut on the left to fit", text)) == 1
    assert "right: negative 1, positive 1" in text


# -------------------------------------------------------------------------------------------------- prompts of texts


@pytest.fixture
def squad(write_jsonl: Write, tmp_path: Path) -> Path:
    rows = load_spec(registry.load("tasks", "squad")).demonstrations
    for name in ("train", "validation", "test"):
        write_jsonl(f"squad/{name}.jsonl", rows)
    return tmp_path / "squad"


@pytest.mark.parametrize("chat", [False, True])
def test_a_prompt_that_is_cut_keeps_its_ends(chat: bool, squad: Path) -> None:
    """<s>, and of a chat its headers; the question stands at the end and stays."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    cfg = TaskConfig(name="squad", data=str(squad), apply_chat_template=chat)
    e = load_task(cfg, 0, tokenizer).test[0]
    whole = tokenizer(e.prompt, add_special_tokens=not chat)["input_ids"]
    assert tokenize_prompt(tokenizer, e, None) == tokenize_prompt(tokenizer, e, len(whole)) == whole
    head = len(tokenizer("<s>user: T", add_special_tokens=False)["input_ids"]) - 1 if chat else 1
    for less in (1, 40, 60):
        assert tokenize_prompt(tokenizer, e, len(whole) - less) == [*whole[:head], *whole[head + less :]]
    with pytest.raises(InputError, match=r" 0 tokens are left for the prompt beside what may be written; lower task"):
        tokenize_prompt(tokenizer, e, 0)


def test_texts_that_cannot_fit_are_found_before_a_run(tiny_model_dir: Path, squad: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"output_dir": tmp_path / "out", "max_steps": 2, "batch_size": 2}
    with pytest.raises(InputError, match=r"-?\d+ tokens are left for the prompt beside what may be written"):
        finetune(
            str(tiny_model_dir),
            "squad",
            "mezo",
            **options,
            overrides=[f"task.data={squad}", "task.max_new_tokens=140"],
        )
    assert not (tmp_path / "out").exists()


def test_another_metric_leads(squad: Path) -> None:
    data = load_task(TaskConfig(name="squad", data=str(squad)), 0)
    assert (data.metrics, data.metric) == (("token_f1", "exact_match"), "token_f1")
    data = load_task(TaskConfig(name="squad", data=str(squad), metric="exact_match"), 0)
    assert (data.metrics, data.metric) == (("exact_match", "token_f1"), "exact_match")
    with pytest.raises(InputError, match=r'task.metric: "exact_mach" does not measure this task; did you mean "exa'):
        load_task(TaskConfig(name="squad", data=str(squad), metric="exact_mach"), 0)
