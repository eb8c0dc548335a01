"""`predict`, `Run.predict` and what they share with `zofo eval`: every target, layout, adapter and way to score."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import SST2, read_rows, save_tiny, sentiment_rows, write_rows
from tests.thinned import latin
from tests.unanswered import check_as_evaluated, sentiment_run, short_run
from zofo import InputError, Run, RunError, evaluate, export, generate, predict, predict_file
from zofo.config import registry

ROWS = sentiment_rows(14)
CHOICES = [{"text": f"film {i}", "choices": [f"a {i}", "b", "c d"][: 2 + i % 2], "label": i % 2} for i in range(10)]
COPA = [
    {"premise": f"it {i}", "choice1": "a", "choice2": f"b {i}", "question": "cause", "label": i % 2} for i in range(8)
]
SQUAD = [{"title": "t", "context": f"a b {i}", "question": "c?", "answers": {"text": ["b"]}} for i in range(6)]
GSM = [{"question": f"one and {i}?", "answer": f"so\n#### {i}"} for i in range(6)]


@pytest.fixture(scope="module")
def run(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of Bilevel ZOFO with LoRA, which has a checkpoint, two adapters, and an export in one and in two parts."""
    folder = tmp_path_factory.mktemp("predict")
    method = {"name": "bilevel-zofo", "inner_steps": 1, "lr_s": 1e-1, "lr_theta": 1e-4}
    path = sentiment_run(tiny_model_dir, folder, method, adapter="lora")
    export(path, folder / "merged", merge=True)
    export(path, folder / "apart", merge=False)
    shutil.copytree(folder / "apart", folder / "peft", ignore=shutil.ignore_patterns("zofo.json", "manifest.json"))
    return path


@pytest.fixture(scope="module")
def chat_dir(tmp_path_factory: pytest.TempPathFactory, chat_tokenizer: Any, tiny_model_dir: Path) -> Path:
    from transformers import AutoConfig

    return save_tiny(tmp_path_factory.mktemp("chat"), AutoConfig.from_pretrained(tiny_model_dir), chat_tokenizer)


SLOW = pytest.mark.slow
TARGETS = [
    "run",
    "peft",
    "model",
    *(pytest.param(name, marks=SLOW) for name in ("run/checkpoint-8", "merged", "apart")),
]


@pytest.mark.parametrize("name", TARGETS)
def test_every_target(name: str, run: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    target = tiny_model_dir if name == "model" else run.parent / name
    named: dict[str, Any] = (
        {} if name in ("run", "run/checkpoint-8", "merged", "apart") else {"task": str(run.parent / "train.jsonl")}
    )
    written = check_as_evaluated(target, ROWS, tmp_path, **named)
    in_memory = predict(target, [row["text"] for row in ROWS], **named)
    assert [row["prediction"] for row in in_memory] == [row["prediction"] for row in written]
    for row, other in zip(in_memory, written, strict=True):
        assert list(row["probability"]) == ["great", "terrible"]
        assert row["probability"]["great"] == pytest.approx(other["probability_great"], abs=1e-6)


@pytest.mark.parametrize(
    ("adapter", "scoring"),
    [
        pytest.param(*each.values, marks=() if each.values[0] in ("lora", "prefix") else SLOW)
        for each in latin([*registry.names("adapters"), None], ["mean", "sum", "characters", "calibrated", "pmi"])
        if not each.marks
    ],
)
def test_every_adapter_and_scoring(adapter: str | None, scoring: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    method: Any = "mezo" if adapter is None else {"name": "fo-peft", "lr": 1e-1}
    path = sentiment_run(tiny_model_dir, tmp_path, method, adapter=adapter)
    check_as_evaluated(path, ROWS, tmp_path, {"scoring": scoring})


def test_each_adapter_of_a_run(run: Path) -> None:
    texts = [row["text"] for row in ROWS]
    by_name = {name: predict(run, texts, adapter=name) for name in ("p", "s", "theta")}
    assert by_name["p"] != by_name["s"] != by_name["theta"]
    deployed = json.loads((run / "run.json").read_text())["deployed"]
    assert predict(run, texts) == by_name[deployed] == Run(run, {}).predict(texts)


@pytest.mark.parametrize(
    ("how", "chat"),
    [("random", True), *(pytest.param(how, chat, marks=SLOW) for how in ("fixed", "per-example") for chat in (0, 1))],
)
def test_demonstrations(how: str, chat: bool, chat_dir: Path, tmp_path: Path) -> None:
    """Those of the run's own training rows, as before its test rows."""
    path = sentiment_run(chat_dir, tmp_path, apply_chat_template=bool(chat), num_fewshot=2, fewshot=how)
    test = read_rows(path / "eval" / "predictions-theta.jsonl")
    numbers = [int(row["id"].rpartition(":")[2]) - 1 for row in test]
    rows = [{"text": row["text"]} for row in sentiment_rows(60)]
    predict_file(path, write_rows(tmp_path / "b" / "train.jsonl", rows), tmp_path / "out.jsonl")  # the ids are the same
    written = read_rows(tmp_path / "out.jsonl")
    for number, row in zip(numbers, test, strict=True):
        assert written[number]["prediction"] == row["prediction"]
        shares = torch.tensor(row["scores"], dtype=torch.float64).softmax(0).tolist()
        assert [written[number][f"probability_{x}"] for x in ("great", "terrible")] == pytest.approx(shares, abs=1e-5)


@pytest.mark.parametrize("scoring", [pytest.param("mean", marks=SLOW), "pmi"])
def test_options_of_each_row(scoring: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    path = short_run(tiny_model_dir, tmp_path, CHOICES * 2)
    (first, *_) = check_as_evaluated(path, CHOICES, tmp_path, {"scoring": scoring})
    assert list(first) == ["text", "choices", "prediction", "probabilities"]


@pytest.mark.parametrize("changes", [pytest.param({}, marks=SLOW), {"system": "be kind"}], ids=str)
def test_in_a_chat(changes: dict[str, Any], chat_dir: Path, tmp_path: Path) -> None:
    path = sentiment_run(chat_dir, tmp_path, apply_chat_template=True, **changes)
    check_as_evaluated(path, ROWS, tmp_path)
    assert predict(path, [ROWS[0]["text"]])[0]["prediction"] in ("great", "terrible")


@pytest.mark.parametrize(("task", "rows"), [("sst2", SST2[:6]), ("copa", COPA)], ids=["sst2", "copa"])
def test_known_tasks_with_options(task: str, rows: list[dict[str, Any]], tiny_model_dir: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "data" / "test.jsonl", rows)
    evaluate(tiny_model_dir, task=task, data=str(tmp_path / "data"), output=tmp_path / "evaluated.jsonl")
    bare = [{key: value for key, value in row.items() if key != "label"} for row in rows]
    answers = predict(tiny_model_dir, bare, task=task)
    by_place = {int(row["id"].rpartition("/")[2]): row for row in read_rows(tmp_path / "evaluated.jsonl")}
    for number, answer in enumerate(answers):
        assert answer["prediction"] == by_place[number]["prediction"]
        shares = torch.tensor(by_place[number]["scores"], dtype=torch.float64).softmax(0).tolist()
        assert list(answer["probability"].values()) == pytest.approx(shares, abs=1e-6)


@pytest.mark.parametrize(
    ("task", "rows"), [("squad", SQUAD), pytest.param("gsm8k", GSM, marks=SLOW)], ids=["squad", "gsm8k"]
)
def test_known_tasks_with_texts(task: str, rows: list[dict[str, Any]], tiny_model_dir: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "data" / "test.jsonl", rows)
    evaluate(tiny_model_dir, task=task, data=str(tmp_path / "data"), output=tmp_path / "x.jsonl", max_new_tokens=5)
    bare = [{key: value for key, value in row.items() if not key.startswith("answer")} for row in rows]
    answers = predict(tiny_model_dir, bare, task=task, max_new_tokens=5)
    assert answers == predict(tiny_model_dir, bare, task=task, overrides=["task.max_new_tokens=5"])
    by_place = {int(row["id"].rpartition("/")[2]): row for row in read_rows(tmp_path / "x.jsonl")}
    assert [answer["text"] for answer in answers] == [by_place[i]["generated"][0] for i in range(len(rows))]


def test_texts_and_conversations_as_generate_writes_them(chat_dir: Path) -> None:
    turns = [[{"role": "user", "content": f"is it {i}?"}] for i in range(3)]
    texts = generate(chat_dir, turns, max_new_tokens=6)
    assert predict(chat_dir, turns, max_new_tokens=6) == [{"text": text} for text in texts]
    texts = generate(chat_dir, ["a film", "b "], max_new_tokens=6)
    assert predict(chat_dir, ["a film", {"prompt": "b "}], max_new_tokens=6) == [{"text": text} for text in texts]
    assert len(predict(chat_dir, [turns[0], "a film"], max_new_tokens=3)) == 2


def test_the_run_s_rows_are_not_needed(tiny_model_dir: Path, tmp_path: Path) -> None:
    """A run knows its labels, wherever its rows are."""
    path = sentiment_run(tiny_model_dir, tmp_path)
    expected = predict(path, ["a film"])
    (tmp_path / "train.jsonl").unlink()
    assert predict(path, ["a film"]) == expected


def test_a_text_stands_in_the_one_column_of_a_task(tiny_model_dir: Path) -> None:
    by_column = predict(tiny_model_dir, [{"sentence": "a film "}], task="sst2")
    assert predict(tiny_model_dir, ["a film "], task="sst2") == by_column
    assert predict(tiny_model_dir, [{"body": "a film "}], task="sst2", text_column="body") == by_column
    with pytest.raises(InputError, match=r'copa\.yaml: template "default": no column'):
        predict(tiny_model_dir, ["a film"], task="copa")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "rows: expected a list"),
        ("a film", "rows: expected a list"),
        ({"text": "a"}, "rows: expected a list"),
        ([3], "row 1: expected a text, a list of turns or a mapping, not int"),
        (["a", None], "row 2: expected a text, a list of turns or a mapping, not NoneType"),
        (["a", b"b"], "row 2: expected a text"),
        (["a", " "], 'row 2: "text" is empty'),
        ([{"text": 3}], 'row 1: "text" must be text, not int'),
        ([{"txt": "a"}], 'no column "text".*did you mean "txt"'),
    ],
)
def test_rows_that_are_none(rows: Any, words: str, run: Path) -> None:
    with pytest.raises(InputError, match=words):
        predict(run, rows)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_size": 0}, "--batch-size: expected a whole number that is at least 1, got 0"),
        ({"batch_size": -1}, "--batch-size: expected a whole number"),
        ({"batch_size": "8"}, "--batch-size: expected a whole number"),
        ({"seed": 1.5}, "--seed: expected a whole number, got 1.5"),
        ({"max_new_tokens": 5}, "--max-new-tokens: an option is chosen here and nothing is written"),
        ({"max_new_tokens": 0}, "--max-new-tokens: expected a whole number that is at least 1"),
        ({"adapter": "q"}, "adapter 'q': this run has"),
        ({"task": "sst3"}, 'task.name: unknown task "sst3"; did you mean "sst2"'),
        ({"task": "/nowhere/x.jsonl"}, "task.name: no such file"),
        ({"text_column": "texd"}, '--text-column: no column "texd" in row 1'),
        ({"model": "/nowhere"}, "model.name: no such model directory"),
        ({"overrides": ["task.scorin=sum"]}, 'task.scorin: unknown field; did you mean "scoring"'),
        ({"overrides": ["task.scoring=summ"]}, "task.scoring: expected one of"),
        ({"overrides": ["train.seed=1"]}, "train.seed: predict takes task.key=value and model.key=value alone"),
        ({"overrides": ["task.template=x"]}, "task.template: own files have"),
        ({"overrides": ["task.choices=[a]"]}, "task.choices: expected at least two"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], words: str, run: Path) -> None:
    with pytest.raises(InputError, match=words) as caught:
        predict(run, ["a film"], **settings)
    assert "\n" not in str(caught.value)


def test_a_row_that_is_skipped(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    answers = predict(run, ["a film", "", "b"], overrides=["task.on_bad_row=skip"])
    assert [answer["prediction"] is None for answer in answers] == [False, True, False]
    assert answers[1]["probability"] == {}
    assert "1 row left out" in caplog.text


def test_warns_of_rows_that_lost_their_beginning(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    predict(run, ["so " * 300 + "it was", "a film"])
    assert "1 of 2 rows were longer than the model takes and lost the beginning of their prompts" in caplog.text


def test_weights_that_are_nan(tiny_model_dir: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copied = shutil.copytree(tiny_model_dir, tmp_path / "model")
    tensors = load_file(copied / "model.safetensors")
    tensors["model.norm.weight"][:] = 3e38  # finite, and what they compute is not
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    settings: Any = {"overrides": ["task.choices=[bad,good]"]}
    with pytest.raises(RunError, match="row 1: the scores of all 2 rows from here on are NaN, so there is no answer"):
        predict(copied, ["a", "b"], **settings)
    rows = write_rows(tmp_path / "rows.jsonl", [{"text": "a"}] * 3)
    with pytest.raises(RunError, match=r"rows\.jsonl:1: the scores of all 3 rows"):
        predict_file(copied, rows, tmp_path / "out.jsonl", **settings)
    for write in (predict, generate):
        with pytest.raises(RunError, match="what it computes is NaN or infinite, so it writes nothing"):
            write(copied, ["a film"], max_new_tokens=3)
    assert not (tmp_path / "out.jsonl").exists()
