"""What examples do not go with is said before training: every metric and every task, scorings, options, borders."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import make_tokenizer, write_rows
from tests.task_files import NAMES, shown, spec_of
from zofo import InputError, finetune
from zofo.api.generate import generate
from zofo.config.sections import TaskConfig
from zofo.data import Example, TaskData, load_task
from zofo.data.chat import Chat
from zofo.data.loader import tokenize_task
from zofo.data.metrics.text import TEXT_METRICS, fitting, misfit
from zofo.data.task import settle
from zofo.data.tokenization import tokenize

GENERATED = [name for name in NAMES if spec_of(name).kind == "generation"]
TEXTS = (*TEXT_METRICS, "pass_at_k")
# Metrics that a task's references fit, beside those of the task file
FIT: dict[str, set[str]] = {
    "drop": {"drop_f1", "drop_exact_match"},
    "squad": {"token_f1", "exact_match"},
    "gsm8k": {"final_number", "last_number", "exact_match", "token_f1", "drop_f1", "drop_exact_match"},
    "math500": {"math_equal", "math_verify", "exact_match", "token_f1", "drop_f1", "drop_exact_match"},
    "humaneval": {"pass_at_k"},
}


# ------------------------------------------------------------------------------------------------------------- metrics


@pytest.mark.parametrize("task", GENERATED)
@pytest.mark.parametrize("metric", TEXTS)
def test_every_metric_on_every_task_is_taken_or_refused_before_data_is_read(task: str, metric: str) -> None:
    config = TaskConfig(name=task, metric=metric)
    if metric in FIT[task]:
        settle(config)
        for example in shown(spec_of(task), "default"):
            if metric not in ("pass_at_k", "math_verify"):
                assert 0 <= TEXT_METRICS[metric]("a text", example.reference) <= 1
        return
    with pytest.raises(InputError) as caught:
        settle(config)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f'task.metric: "{metric}" does not fit {task}: ')
    named = line.split("these do: ")[1].split(", ")
    assert set(named) >= set(spec_of(task).metric), "the task's own are among them"
    assert all(not misfit(name, e.reference) for name in named for e in shown(spec_of(task), "default")[:1])


@pytest.mark.parametrize("task", [name for name in NAMES if spec_of(name).kind == "options"])
def test_every_metric_of_options_on_every_task(task: str) -> None:
    several = any(len(e.gold) > 1 for e in shown(spec_of(task), "default"))
    if not several:
        settle(TaskConfig(name=task, metric="macro_f1"))
    else:
        with pytest.raises(InputError, match=rf'^task.metric: "macro_f1" does not fit {task}: .*; these do: accuracy$'):
            settle(TaskConfig(name=task, metric="macro_f1"))
    with pytest.raises(InputError, match=r'^task.metric: "token_f1" does not measure this task'):
        settle(TaskConfig(name=task, metric="token_f1"))


def test_a_metric_is_tried_with_every_row(tmp_path: Path) -> None:
    """The demonstrations' answers are numbers, a later row's is a root."""
    rows = [{"problem": f"p {i}", "solution": "so \\boxed{3}", "answer": "3"} for i in range(6)]
    write_rows(tmp_path / "test.jsonl", [*rows, {**rows[0], "problem": "q", "answer": "\\sqrt{2}"}])
    (tmp_path / "roots.yaml").write_text(
        "version: 1\ndescription: x\nsource: x\ncolumns: [problem, solution, answer]\nkind: generation\n"
        "reference: answer\nobjective: lm\nmetric: math_equal\ngeneration: {stop: ['\\n']}\n"
        "templates: {default: {prompt: '{{ problem }}', answers: [' {{ answer }}']}}\n"
    )
    config = TaskConfig(name=str(tmp_path / "roots.yaml"), data=str(tmp_path / "test.jsonl"))
    assert load_task(config, 0, only="test").metrics == ("math_equal",)
    with pytest.raises(InputError, match=r'^task.metric: "last_number" does not fit roots: .*test.jsonl:7.*math_equal'):
        load_task(replace(config, metric="last_number"), 0, only="test")


@pytest.mark.parametrize(
    ("metric", "reference"),
    [
        ("math_equal", ["3"]),
        ("math_equal", {"answer": "3"}),
        ("math_equal", True),
        ("math_equal", "a way\n#### 3"),
        ("final_number", "none"),
        ("last_number", ["3"]),
        ("pass_at_k", {"prompt": "x", "test": "y"}),
        ("pass_at_k", "x"),
        ("exact_match", {"text": ["a"]}),
        ("drop_f1", ["5"]),
    ],
)
def test_a_reference_of_another_shape_is_no_zero(metric: str, reference: Any) -> None:
    assert misfit(metric, reference)
    assert metric not in fitting(reference)


# ------------------------------------------------------------------------------------------------------------- scorings


def options(scoring: Any, **changes: Any) -> TaskData:
    example = Example("rows:1", "is it?", (" yes", " no"), (0,), **changes)
    return TaskData("rows", 1, "lm", ("accuracy",), [], [example], [], (), scoring=scoring)


@pytest.mark.parametrize("scoring", ["calibrated", "pmi"])
def test_scores_without_an_input_are_tried_before_training(scoring: str, tiny_tokenizer: Any) -> None:
    tokenize_task(options(scoring), {}, tiny_tokenizer, None)
    chat = options(scoring, cuttable=(0, 3))
    with pytest.raises(
        InputError, match=rf"^task.scoring: {scoring} scores in a chat need a template with a null_prom"
    ):
        tokenize_task(chat, {}, tiny_tokenizer, None)
    bare = make_tokenizer(bos=False)
    bare.bos_token = bare.eos_token = None
    with pytest.raises(InputError, match=r"rows:1 \(no input\): the prompt is empty and the tokenizer has no BOS"):
        tokenize_task(options(scoring), {}, bare, None)
    tokenize_task(options(scoring, null_prompt="is it?"), {}, bare, None)
    tokenize_task(options("mean"), {}, bare, None)
    words = dict.fromkeys(tiny_tokenizer("was it?").input_ids, "was")  # as if the embedding had no rows for them
    words = {number: text for number, text in words.items() if number not in tiny_tokenizer("is it? yes no").input_ids}
    for beyond, fault in (({}, None), (words, r'rows:1 \(no input\): the token "was" has id')):
        with pytest.raises(InputError, match=fault) if fault else nullcontext():
            tokenize_task(options(scoring, null_prompt="was it?"), {}, tiny_tokenizer, None, beyond)


def test_an_option_of_blanks_has_no_score_by_characters(tiny_tokenizer: Any) -> None:
    blank = replace(options("characters").dev[0], answers=(" yes", "  "))
    with pytest.raises(InputError, match="an option without a character has no score by characters"):
        tokenize_task(replace(options("characters"), dev=[blank]), {}, tiny_tokenizer, None)


# -------------------------------------------------------------------------------------------------------------- options


def lower(tokenizer: Any) -> Any:
    from tokenizers import normalizers

    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    return tokenizer


@pytest.mark.parametrize(
    ("answers", "same"),
    [((" Yes", " yes"), (0, 1)), ((" a", " b", " ﬁt", " fit"), (2, 3)), ((" ²", " x", " 2"), (0, 2))],
)
@pytest.mark.parametrize("encodes", ["options", "gold"])
def test_options_that_a_tokenizer_cannot_tell_apart_are_refused(
    answers: tuple[str, ...], same: tuple[int, int], encodes: Any
) -> None:
    example = Example("rows:7", "so", answers, (1,), place="rows.jsonl:7")
    tokenize(make_tokenizer(), example, None, encodes, False, for_eval=True)
    with pytest.raises(InputError) as caught:
        tokenize(lower(make_tokenizer()), example, None, encodes, False, for_eval=True)
    first, second = same
    assert str(caught.value).startswith(
        f"rows.jsonl:7 (rows:7): options {first} and {second}, {answers[first]!r} and {answers[second]!r}, are the same"
    )


def test_a_text_that_is_listed_twice_is_right_both_times_or_refused(tiny_tokenizer: Any) -> None:
    twice = Example("rows:1", "so", (" a", " b", " a"), (0, 2))
    assert tokenize(tiny_tokenizer, twice, None, "options", False).gold == (0, 2)
    with pytest.raises(InputError, match="options 0 and 2, ' a' and ' a', are the same tokens"):
        tokenize(tiny_tokenizer, replace(twice, gold=(0,)), None, "options", False)
    channel = replace(twice, answers=(" x",) * 3, leads=(" great", " dull", " great"), gold=(1,))
    assert tokenize(tiny_tokenizer, channel, None, "options", False).n_options == 3
    with pytest.raises(InputError, match="' great x' and ' great x'"):
        tokenize(tiny_tokenizer, replace(channel, gold=(0,)), None, "options", False)


def test_a_choice_listed_twice_is_refused_before_a_file_is_written(tiny_model_dir: Path, tmp_path: Path) -> None:
    rows = [{"text": f"number {i}:", "choices": ["one", "two", "six"], "label": i % 3} for i in range(40)]
    rows[11]["choices"] = ["two", "one", "two"]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(InputError, match=r"rows.jsonl:12.*: the option 'two' is listed twice; list each once"):
        finetune(str(tiny_model_dir), str(file), "mezo", output_dir=tmp_path / "out", max_steps=2)
    assert not (tmp_path / "out").exists()


def test_a_known_tasks_row_that_lists_an_option_twice(tmp_path: Path, caplog: Any) -> None:
    row = {
        "context": "Ann fell.",
        "question": "Why?",
        "answerA": "ice",
        "answerB": "ice",
        "answerC": "rain",
        "label": "2",
    }
    write_rows(tmp_path / "test.jsonl", [row, {**row, "answerB": "snow"}])
    with caplog.at_level("INFO", logger="zofo"):
        data = load_task(TaskConfig(name="siqa", data=str(tmp_path)), 0, only="test")
    assert sorted(e.gold for e in data.test) == [(0, 1), (1,)]
    assert "siqa.yaml: template default: 1 of 2 rows list an option twice" in caplog.text


# ------------------------------------------------------------------------------------------------------------- borders


def own(tmp_path: Path, rows: list[dict[str, Any]], **changes: Any) -> Callable[[Any], TaskData]:
    file = write_rows(tmp_path / "rows.jsonl", rows)
    return lambda tokenizer: load_task(TaskConfig(name=str(file), **changes), 0, tokenizer)


def test_borders_of_ones_own_rows_are_said_once_with_a_count(
    tmp_path: Path, tiny_tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"prompt": f"number {i}:", "completion": " good"} for i in range(30)]
    own(tmp_path, rows)(tiny_tokenizer)
    assert not caplog.text, "right use is silent"
    for i in range(4):
        rows[i] = {"prompt": f"number {i}: ", "completion": "good"}
    for i in range(4, 10):
        rows[i]["completion"] = (" good \n", " good\n")[i % 2]
    own(tmp_path, rows)(tiny_tokenizer)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3
    assert lines[0].startswith("rows.jsonl: 4 of 30 prompts end in a blank")
    assert lines[1].startswith("rows.jsonl: 6 of 30 rows have an answer that ends in white space")
    assert lines[2].startswith("rows.jsonl: 4 of 30 rows have a token with the prompt's end and the answer's beginning")


def test_merges_inside_words_labels_and_chats(
    tmp_path: Path, tiny_tokenizer: Any, chat_tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"prompt": f"number {i} a wa", "completion": "rm"} for i in range(30)]
    own(tmp_path, rows)(tiny_tokenizer)
    assert "30 of 30 rows have a token with" in caplog.text
    caplog.clear()
    own(tmp_path, rows, apply_chat_template=True)(chat_tokenizer)
    assert "have a token with" not in caplog.text, "the template's header stands between"
    rows = [{"text": f"number {i} is", "label": ("good", "bad")[i % 2]} for i in range(30)]
    caplog.clear()
    own(tmp_path, rows)(tiny_tokenizer)
    assert not caplog.text
    file = tmp_path / "chosen.jsonl"
    file.write_text("".join(json.dumps({"text": f"number {i}:", "label": i % 2}) + "\n" for i in range(30)))
    load_task(TaskConfig(name=str(file), choices=["good ", "bad"]), 0, tiny_tokenizer)
    assert "chosen.jsonl: 30 of 30 rows have an answer that ends in white space" in caplog.text


def test_a_merge_is_what_the_joint_tokens_say(tiny_tokenizer: Any) -> None:
    """Also for a tokenizer without offsets."""
    from zofo.data.tokenization import merged

    class Slow:
        is_fast = False

        def __getattr__(self, name: str) -> Any:
            return getattr(tiny_tokenizer, name)

        def __call__(self, text: str, **options: Any) -> Any:
            return tiny_tokenizer(text, **options)

    examples = [
        Example(p + a, p, (a,), (0,)) for p, a in (("a wa", "rm"), ("a", " warm"), ("a ", "warm"), ("x\n", "y"))
    ]
    assert [e.id for e in merged(tiny_tokenizer, examples)] == ["a warm", "a warm"]
    assert merged(Slow(), examples) == merged(tiny_tokenizer, examples)


def test_a_right_answer_that_holds_a_stop_string_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    row = {"title": "T", "context": "C", "question": "Q?", "answers": {"text": ["two\nlines"], "answer_start": [0]}}
    rows = [row, *({**row, "question": f"{i}?", "answers": {"text": ["a"], "answer_start": [0]}} for i in range(5))]
    write_rows(tmp_path / "test.jsonl", rows)
    load_task(TaskConfig(name="squad", data=str(tmp_path)), 0, only="test")
    assert "squad.yaml: template default: 1 of 6 answers to learn hold a stop string" in caplog.text


def test_a_chats_prompt_is_measured_by_its_own_template(chat_tokenizer: Any) -> None:
    dressed = Chat(chat_tokenizer).dress(Example("x", "so ", (" a", " A"), (0,)), False)
    lowered = lower(make_tokenizer())
    with pytest.raises(InputError, match="are the same tokens"):
        tokenize(lowered, dressed, None, "options", False)


def test_a_top_p_of_greedy_texts_is_said_and_samples_of_them_are_refused(
    tiny_model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settle(TaskConfig(name="squad", top_p=0.5, temperature=0.7))
    generate(tiny_model_dir, ["a"], max_new_tokens=1, top_p=0.5, temperature=0.7)
    assert not caplog.text
    settle(TaskConfig(name="squad", top_p=0.5))
    assert "task.top_p: 0.5 changes no greedy text; give temperature too" in caplog.text
    generate(tiny_model_dir, ["a"], max_new_tokens=1, top_p=0.5)
    assert "\nWARNING" in caplog.text
    with pytest.raises(InputError, match=r"^task.samples: 5 greedy texts are all the same"):
        settle(TaskConfig(name="humaneval", samples=5))
