"""Demonstrations before a prompt: which ones, for whom, and that training goes without; and tasks with few rows."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import CHAT_TEMPLATE, make_tokenizer, read_rows
from tests.family_runs import save_family
from zofo import evaluate, finetune
from zofo.config import registry
from zofo.config.sections import TaskConfig
from zofo.data import Example, load_task
from zofo.data.fewshot import demonstrate
from zofo.data.spec import load_spec
from zofo.errors import InputError

Write = Callable[[str, list[dict[str, Any]]], Path]
WORDS = ("dull", "warm", "stale", "funny", "clumsy", "clever", "awful", "moving")


def rows(n: int, prefix: str = "film") -> list[dict[str, Any]]:
    return [{"sentence": f"{prefix} {i} is {WORDS[i % 8]}", "label": i % 2} for i in range(n)]


def sentence(row: dict[str, Any]) -> str:
    return f"{row['sentence']} It was {('terrible', 'great')[row['label']]}"


@pytest.fixture
def sst2(write_jsonl: Write, tmp_path: Path) -> Path:
    """A directory of 12 training, 3 dev and 4 test rows."""
    for name, split_rows in (("train", rows(12)), ("validation", rows(3, "dev")), ("test", rows(4, "test"))):
        write_jsonl(f"sst2/{name}.jsonl", split_rows)
    return tmp_path / "sst2"


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = make_tokenizer()
    tokenizer.model_max_length, tokenizer.chat_template = 1024, CHAT_TEMPLATE
    return save_family("llama", tmp_path_factory.mktemp("model"), tokenizer, positions=1024)


def task(data: Path, name: str = "sst2", **changes: Any) -> TaskConfig:
    return TaskConfig(name=name, data=str(data), **changes)


def split(example: Example) -> tuple[list[str], str]:
    """(the demonstrations, the example's own prompt)"""
    *shown, prompt = example.prompt.split("\n\n")
    return shown, prompt


# ---------------------------------------------------------------------------------------------------- the prompts


def test_fixed_ones_are_the_task_files_own(sst2: Path) -> None:
    data = load_task(task(sst2, num_fewshot=2, fewshot="fixed"), 0)
    shown = (
        "two hours of rain on a window would have been better company . It was terrible\n\n"
        "a small story told with such care that the theatre forgot to cough It was great\n\n"
    )
    assert {e.prompt for e in data.test} == {f"{shown}{row['sentence']} It was" for row in rows(4, "test")}
    assert {e.prompt for e in data.dev} == {f"{shown}{row['sentence']} It was" for row in rows(3, "dev")}
    assert {e.prompt for e in data.train} == {f"{row['sentence']} It was" for row in rows(12)}


def test_fixed_ones_are_the_first_training_rows_where_the_file_has_too_few(sst2: Path) -> None:
    data = load_task(task(sst2, num_fewshot=5, fewshot="fixed"), 0)
    first = [f"{e.prompt}{e.answers[e.gold[0]]}" for e in data.train[:5]]
    assert all(split(e)[0] == first for e in data.test + data.dev)


def test_random_ones_are_one_draw_of_the_training_rows(sst2: Path) -> None:
    data = load_task(task(sst2, num_fewshot=3), 0)
    known, draws = {sentence(row) for row in rows(12)}, {tuple(split(e)[0]) for e in data.test + data.dev}
    (drawn,) = draws
    assert len(set(drawn)) == 3
    assert set(drawn) <= known
    assert {split(e)[1] for e in data.test} == {f"{row['sentence']} It was" for row in rows(4, "test")}
    assert [e.prompt for e in load_task(task(sst2, num_fewshot=3), 0).test] == [e.prompt for e in data.test]
    others = {tuple(split(load_task(task(sst2, num_fewshot=3), seed).test[0])[0]) for seed in range(1, 6)}
    assert len(others | draws) > 3, "the seed draws"


def test_a_draw_for_each_example_goes_by_its_id(sst2: Path) -> None:
    cfg = task(sst2, num_fewshot=3, fewshot="per-example")
    demonstrations = {e.id: split(e)[0] for e in load_task(cfg, 0).test}
    known = {sentence(row) for row in rows(12)}
    assert all(len(set(shown)) == 3 and set(shown) <= known for shown in demonstrations.values())
    assert len({tuple(shown) for shown in demonstrations.values()}) > 1
    fewer = load_task(replace(cfg, test_examples=2), 0).test
    assert len(fewer) == 2
    assert all(split(e)[0] == demonstrations[e.id] for e in fewer)
    assert {e.id: split(e)[0] for e in load_task(cfg, 1).test} != demonstrations


def test_several_right_answers_show_the_first(write_jsonl: Write, tmp_path: Path) -> None:
    write_jsonl("test.jsonl", load_spec(registry.load("tasks", "record")).demonstrations)
    data = load_task(task(tmp_path, "record", num_fewshot=1, fewshot="fixed"), 0, only="test")
    shown = {prompt[:8]: text for e in data.test for (text,), prompt in [split(e)]}  # the other one: not among its own
    assert shown["Lindholm"].endswith("\n- Cars will cross the river on the Talbrücke a day later.")
    assert shown["Oberau ("].endswith("wait for their post, said Agnes Brandt.")


def test_generated_answers_show_the_trained_one(write_jsonl: Write, tmp_path: Path) -> None:
    demonstrations = load_spec(registry.load("tasks", "gsm8k")).demonstrations
    write_jsonl(
        "train.jsonl", demonstrations * 2 + [{"question": "What is 1 + 1?", "answer": "It is <<1+1=2>>2.\n#### 2"}]
    )
    write_jsonl("test.jsonl", [{"question": "What is 2 + 2?", "answer": "#### 4"}])
    data = load_task(task(tmp_path, "gsm8k", num_fewshot=1, fewshot="fixed"), 0, only="test")
    assert data.test[0].prompt == (
        "Question: A crate holds 24 jars. Pia fills 3 crates and then takes 5 jars out for her aunt. How many jars are "
        "left in the crates?\nAnswer: Pia fills 3 * 24 = 72 jars.\nThere are 72 - 5 = 67 jars left.\n#### 67\n\n"
        "Question: What is 2 + 2?\nAnswer:"
    )
    assert data.test[0].reference == "#### 4"


# ------------------------------------------------------------------------------------------ who is among whose


@pytest.mark.parametrize("how", ["random", "per-example", "fixed"])
def test_no_example_is_among_its_own_demonstrations(how: Any) -> None:
    pool = [Example(f"x/{i}", f"prompt {i}", (" a", " b"), (i % 2,)) for i in range(4)]
    known = {e.prompt: e.prompt + e.answers[e.gold[0]] for e in pool}
    for seed in range(5):
        examples = demonstrate(pool, pool, 3, how, seed)
        for e, dressed in zip(pool, examples):
            shown, own_prompt = split(dressed)
            assert own_prompt == e.prompt
            assert set(shown) == {text for prompt, text in known.items() if prompt != e.prompt}
            assert (dressed.answers, dressed.gold, dressed.id) == (e.answers, e.gold, e.id)
    with pytest.raises(InputError, match=r"^task.num_fewshot: only 3 of 4 demonstrations differ from x/0"):
        demonstrate(pool, pool, 4, how, 0)
    with pytest.raises(InputError, match=r"^task.num_fewshot: 5 demonstrations, and 4 answered examples to take them "):
        demonstrate(pool, pool, 5, how, 0)
    assert demonstrate(pool, [], 0, how, 0) == pool


@pytest.mark.parametrize("how", ["random", "per-example", "fixed"])
def test_a_row_that_occurs_several_times_is_no_reason_to_give_up(how: Any) -> None:
    """The pool has four other rows, whatever is drawn first."""
    same = [Example(f"x/{i}", "again", (" a",), (0,)) for i in range(6)]
    pool = same + [Example(f"y/{i}", f"prompt {i}", (" b",), (0,)) for i in range(4)]
    for seed in range(5):
        (dressed,) = demonstrate(same[:1], pool, 4, how, seed)
        assert set(split(dressed)[0]) == {f"prompt {i} b" for i in range(4)}


def test_where_there_are_no_training_rows(write_jsonl: Write, tmp_path: Path) -> None:
    """dev's own rows show each other, and a test file alone is shown what the task file has."""
    write_jsonl("validation.jsonl", rows(3, "dev"))
    data = load_task(task(tmp_path, num_fewshot=2), 0, only="dev")
    for e in data.dev:
        own_sentence = split(e)[1].removesuffix(" It was")
        assert set(split(e)[0]) == {sentence(row) for row in rows(3, "dev") if row["sentence"] != own_sentence}
    (tmp_path / "validation.jsonl").rename(tmp_path / "test.jsonl")
    data = load_task(task(tmp_path, num_fewshot=2), 0, only="test")
    assert {text for e in data.test for text in split(e)[0]} <= {
        "two hours of rain on a window would have been better company . It was terrible",
        "a small story told with such care that the theatre forgot to cough It was great",
        "nobody in it seems to know why they are there , least of all the camera It was terrible",
        "it earns every one of its laughs It was great",
    }
    with pytest.raises(InputError, match=r"^task.num_fewshot: 9 demonstrations, and 4 answered examples to take them "):
        load_task(task(tmp_path, num_fewshot=9), 0, only="test")


# ----------------------------------------------------------------------------------------- with scoring and with chats


def test_in_a_chat_they_are_in_the_users_turn(sst2: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    data = load_task(task(sst2, num_fewshot=1, fewshot="fixed", apply_chat_template=True), 0, tokenizer)
    shown = "two hours of rain on a window would have been better company . It was terrible\n\n"
    assert {e.prompt for e in data.test} == {
        f"<s>user: {shown}{row['sentence']} It was</s>\n<s>assistant: " for row in rows(4, "test")
    }
    assert {e.answers for e in data.test} == {("terrible", "great")}
    assert all(shown not in e.prompt for e in data.train)


def test_a_conversation_takes_none(write_jsonl: Write, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    rows = [{"messages": [{**turns[0], "content": f"hello {i}"}, turns[1]]} for i in range(9)]
    path = write_jsonl("rows.jsonl", rows)
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    with pytest.raises(InputError, match=r"task.num_fewshot: .* is a conversation; demonstrations are put"):
        load_task(TaskConfig(name=str(path), num_fewshot=1), 0, tokenizer)


def test_calibrated_scores_after_demonstrations(sst2: Path, model_dir: Path, tmp_path: Path) -> None:
    """What is subtracted is the options' score after the bare prompt without input: the same with and without."""
    less = {}
    for k in (0, 2):
        scores = {}
        for scoring in ("sum", "calibrated"):
            out = tmp_path / f"{k}-{scoring}.jsonl"
            evaluate(model_dir, task="sst2", data=str(sst2), num_fewshot=k, scoring=scoring, output=out)
            assert all(row["prompt"].count("\n\n") == k for row in read_rows(out))
            scores[scoring] = {row["id"]: row["scores"] for row in read_rows(out)}
        less[k] = [[a - b for a, b in zip(scores["sum"][i], scores["calibrated"][i])] for i in scores["sum"]]
    for k in (0, 2):
        for one in less[k]:
            assert one == pytest.approx(less[0][0], abs=2e-5)


def test_of_a_plain_model(sst2: Path, model_dir: Path, tmp_path: Path) -> None:
    common: dict[str, Any] = {"task": "sst2", "data": str(sst2), "output": tmp_path / "out.jsonl"}
    plain = evaluate(model_dir, **common)
    shown = evaluate(model_dir, **common, num_fewshot=2, overrides=["task.fewshot=fixed"])
    assert {row["prompt"].count("\n\n") for row in read_rows(tmp_path / "out.jsonl")} == {2}
    assert plain["loss"] != shown["loss"]
    drawn = []
    for seed in (0, 0, 1):
        evaluate(model_dir, **common, num_fewshot=3, seed=seed)
        drawn.append(read_rows(tmp_path / "out.jsonl")[0]["prompt"].split("\n\n")[:3])
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_method_icl(sst2: Path, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finetune(str(model_dir), "sst2", "icl", output_dir=tmp_path / "icl", overrides=[f"task.data={sst2}"])
    assert yaml.safe_load((run.path / "config.yaml").read_text())["task"]["num_fewshot"] == 4
    written = read_rows(run.path / "eval" / "predictions-theta.jsonl")
    assert [row["prompt"].count("\n\n") for row in written] == [4] * 4
    assert run.info["steps"] == {"lower": 0, "upper": 0}
    assert evaluate(run.path) == pytest.approx(run.test, rel=1e-6)
    bare = finetune(str(model_dir), "sst2", "zero-shot", output_dir=tmp_path / "bare", overrides=[f"task.data={sst2}"])
    assert evaluate(bare.path, num_fewshot=4) == pytest.approx(run.test, rel=1e-6)
    assert evaluate(run.path, num_fewshot=0) == pytest.approx(bare.test, rel=1e-6)
    assert run.test["loss"] != pytest.approx(bare.test["loss"], rel=1e-3)
    two = finetune(
        str(model_dir),
        "sst2",
        "icl",
        output_dir=tmp_path / "two",
        overrides=[f"task.data={sst2}", "task.num_fewshot=2"],
    )
    assert [row["prompt"].count("\n\n") for row in read_rows(two.path / "eval" / "predictions-theta.jsonl")] == [2] * 4
    shown = re.findall(r"^examples: .*$", capsys.readouterr().err, re.MULTILINE)
    assert shown == ["examples: train 12 of 1000 asked for, dev 3 of 500 asked for, test 4 of 1000 asked for"] * 3


# ----------------------------------------------------------------------------------------------------- few rows


def test_test_rows_alone_are_carved_by_a_run(
    write_jsonl: Write, model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    problems = [{"problem": f"What is {i} + 1?", "solution": f"\\boxed{{{i + 1}}}", "answer": i + 1} for i in range(10)]
    write_jsonl("math/test.jsonl", problems)
    overrides = [f"task.data={tmp_path / 'math'}", "task.max_new_tokens=3"]
    with caplog.at_level(logging.WARNING, "zofo"):
        run = finetune(str(model_dir), "math500", "icl", output_dir=tmp_path / "run", overrides=overrides)
    assert "math500 has test rows alone: 8 of the 10 are taken for train and dev, the other 2 are the" in caplog.text
    assert (run.info["examples"]["test"], run.test["n"]) == (2, 2)
    ids = {row["id"] for row in read_rows(run.path / "eval" / "predictions-theta.jsonl")}
    result = evaluate(run.path, output=tmp_path / "again.jsonl")
    assert result == pytest.approx(run.test, rel=1e-6)
    assert {row["id"] for row in read_rows(tmp_path / "again.jsonl")} == ids
    prompts = [row["prompt"] for row in read_rows(tmp_path / "again.jsonl")]
    tested = {re.findall(r"What is (\d+)", prompt)[-1] for prompt in prompts}
    assert not {n for prompt in prompts for n in re.findall(r"What is (\d+)", prompt)[:-1]} & tested
    whole = evaluate(model_dir, task="math500", data=str(tmp_path / "math"), max_new_tokens=3)
    assert whole["n"] == 10


def test_a_small_task_keeps_most_rows_for_training(write_jsonl: Write, tmp_path: Path) -> None:
    """copa: dev is 100 of its 400 rows, and never more than half of what there is."""
    row = load_spec(registry.load("tasks", "copa")).demonstrations[0]
    write_jsonl("test.jsonl", [row])
    for n, dev in ((240, 100), (60, 30)):
        write_jsonl("train.jsonl", [{**row, "premise": f"The kettle {i} boiled dry."} for i in range(n)])
        data = load_task(task(tmp_path, "copa"), 0)
        assert (len(data.dev), len(data.train), len(data.test)) == (dev, n - dev, 1)
        assert len(load_task(task(tmp_path, "copa", dev_examples=7), 0).dev) == 7
