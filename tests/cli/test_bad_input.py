"""What a user gets wrong: exit code 2, one line that names the place and the fix, and nothing written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chat_templates import CHATML, with_template
from tests.conftest import read_rows, sentiment_rows, write_rows
from zofo.api import finetune
from zofo.cli import main as cli

Refused = Callable[..., str]
SMALL = ["train.batch_size=4", "train.max_steps=11", "train.eval_steps=11", "train.save_steps=11", "train.threads=1"]


@pytest.fixture
def refused(tiny_model_dir: Path, sentiment_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs `zofo train` with changes to a right command line; returns the line it is refused with."""

    def run(*changes: str, task: Path | str = sentiment_file, method: str = "mezo", verb: str = "train") -> str:
        out = tmp_path / "out"
        fixed = ["--model", str(tiny_model_dir), "--task", str(task), "--method", method, "--output-dir", str(out)]
        assert cli.run([verb, *fixed, *SMALL, *changes]) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert not out.exists(), "nothing is written"
        (line,) = lines
        return line.removeprefix("error: ")

    return run


# --------------------------------------------------------------------------------------------------------- settings

SETTINGS = [
    (["--method", "mezoo"], 'method.name: unknown method "mezoo"; did you mean "mezo"?'),
    (["method.lrr=1"], 'method.lrr: unknown field; did you mean "lr"?'),
    (["methd.lr=1"], 'methd.lr: unknown section; did you mean "method.lr"?'),
    (["method.lr=high"], 'method.lr: expected a number, got "high"'),
    (["method.lr=-1"], "method.lr: must be >= 0, got -1"),
    (["method.lr=nan"], 'method.lr: expected a number, got "nan"'),
    (["estimator.eps=0"], "estimator.eps: must be > 0, got 0"),
    (["train.batch_size=0"], "train.batch_size: must be >= 1, got 0"),
    (["train.batch_size=1.5"], "train.batch_size: expected an integer, got 1.5"),
    (["train.max_steps=-1"], "train.max_steps: must be >= 0, got -1"),
    (["task.dev_examples=0"], "task.dev_examples: must be >= 1, got 0"),
    (
        ["task.template=plane"],
        'task.template: own files have "default" and "plain", not "plane"; did you mean "plain"?',
    ),
    (["task.choices=great"], "task.choices: expected at least two different answers"),
    (["task.system=Be kind."], "task.system: is part of a chat; give task.apply_chat_template=true too"),
    (
        ["task.apply_chat_template=true"],
        "task.apply_chat_template: the model's tokenizer has no chat template; take an",
    ),
    (["task.apply_chat_templte=true"], 'task.apply_chat_templte: unknown field; did you mean "apply_chat_template"?'),
    (["task.objective=option"], 'did you mean "options"?'),
    (["model.dtype=float64"], 'model.dtype: expected one of "auto", "float32", "bfloat16", "float16", got "float64"'),
    (["model.device=gpu"], 'model.device: expected auto, cpu, cuda, cuda:N or mps, got "gpu"'),
    (["train.report_to=tensorbord"], 'train.report_to: unknown "tensorbord"; did you mean "tensorboard"?'),
]


@pytest.mark.parametrize(("changes", "expected"), SETTINGS)
def test_settings(refused: Refused, changes: list[str], expected: str) -> None:
    assert expected in refused(*changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["method.lam=-1"], "method.lam: must be >= 0, got -1"),
        (["method.inner_steps=-1"], "method.inner_steps: must be >= 0, got -1"),
        (["method.upper_share=1"], "method.upper_share: must be > 0 and < 1, got 1"),
        (
            ["method.optimizer=adam"],
            'method.optimizer: expected one of "adamw", "sgd", got "adam"; did you mean "adamw"?',
        ),
        (["method.lamda=1"], 'method.lamda: unknown field; did you mean "method.lam"?'),
        (
            ["train.max_steps=10"],
            "train.max_steps: 10 is less than the 11 counted steps that one iteration",
        ),
        (["task.train_examples=1"], "two levels need at least 2 training examples, got 1; give more"),
        (["--adapter", "lroa"], 'adapter.name: unknown adapter "lroa"; did you mean "lora"?'),
        (["adapter.r=0"], "adapter.r: must be >= 1, got 0"),
    ],
)
def test_settings_of_two_levels(refused: Refused, changes: list[str], expected: str) -> None:
    assert expected in refused(*changes, method="bilevel-zofo")


def test_a_section_that_the_method_does_not_use(refused: Refused) -> None:
    text = refused("--adapter", "lora", method="zero-shot")
    assert text.startswith("adapter: method zero-shot does not use it; remove the section (methods that do: ")
    assert "estimator: method fo-peft does not use it" in refused("estimator.eps=1e-3", method="fo-peft")


def test_a_model_that_is_not_there(refused: Refused, tmp_path: Path) -> None:
    assert f"model.name: no such model directory: {tmp_path}/none" in refused(f"model.name={tmp_path}/none")
    assert "has no config.json, so it is no transformers model directory" in refused(f"model.name={tmp_path}")


def test_an_answer_that_does_not_fit(refused: Refused, tmp_path: Path) -> None:
    rows = [{**row, "label": "good and warm" if row["label"] == "great" else "bad"} for row in sentiment_rows()]
    text = refused("model.max_length=2", task=write_rows(tmp_path / "rows.jsonl", rows))
    assert text.startswith("rows.jsonl:")
    assert (
        "and does not fit into 2 (an answer is never truncated); raise model.max_length or shorten the answer" in text
    )


# ------------------------------------------------------------------------------------------------- labels and levels


def test_a_stratified_split_without_labels(refused: Refused, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"prompt": f"say {i}", "completion": f" {i}"} for i in range(30)])
    text = refused("method.stratified=true", task=path, method="bilevel-ablations")
    assert "a stratified split of the levels goes by labels that all examples share" in text
    assert "is a completion: use the random split" in text


def test_labels_that_do_not_fit(refused: Refused, tmp_path: Path) -> None:
    rows = sentiment_rows()
    assert "only one label" in refused(
        task=write_rows(tmp_path / "rows.jsonl", [{**row, "label": "great"} for row in rows])
    )
    assert "unknown label" in (text := refused("task.choices=good,bad", task=write_rows(tmp_path / "rows.jsonl", rows)))
    assert "known: good, bad" in text
    two = write_rows(
        tmp_path / "rows.jsonl", [{"text": f"t{i}", "label": i % 3, "choices": ["a", "b"]} for i in range(30)]
    )
    assert "label 2 is neither one of the choices nor an index of one" in refused(task=two)


@pytest.mark.parametrize("method", ["bilevel-zofo", "fo-peft", "fo-ft", "two-stage", "bilevel-fo"])
def test_an_objective_without_a_gradient(refused: Refused, method: str) -> None:
    text = refused("task.objective=metric", method=method)
    assert text.startswith(f"task.objective: a metric has no gradient, and method {method} takes first-order steps")


def test_mezo_takes_an_objective_without_a_gradient(tiny_model_dir: Path, sentiment_file: Path, tmp_path: Path) -> None:
    fixed = ["--model", str(tiny_model_dir), "--task", str(sentiment_file), "--method", "mezo", "task.objective=metric"]
    assert cli.run(["train", *fixed, "--output-dir", str(tmp_path / "out"), *SMALL]) == 0
    lines = read_rows(tmp_path / "out" / "metrics.jsonl")
    trained = [line["loss"] for line in lines if line["event"] == "train"]
    assert trained
    assert all(-1 <= loss <= 0 for loss in trained), "minus an accuracy"


# ------------------------------------------------------------------------------------------------------- task files

TASK = {
    "version": 1,
    "description": "which of two",
    "source": "me",
    "columns": ["sentence", "label"],
    "kind": "options",
    "gold": "label",
    "labels": ["bad", "good"],
    "objective": "options",
    "metric": "accuracy",
    "templates": {"default": {"prompt": "{{ sentence }} It was", "answers": [" bad", " good"]}},
}


def prompt(text: str) -> dict[str, Any]:
    return {"templates": {"default": {"prompt": text, "answers": [" bad", " good"]}}}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            prompt("{{ sentense }}"),
            'which.yaml: template "default": no column "sentense"; columns: sentence, label; did you mean "sentence"?',
        ),
        (
            {"columns": ["sentence", "label", "title"], **prompt("{{ title }}")},
            'which.yaml: template "default": no column "title" in rows.jsonl; has: sentence, label',
        ),
        (
            prompt("{% if label == 7 %}{{ sentence }}{% endif %}"),
            'which.yaml: template "default": the prompt comes out empty; mend the template or drop the row',
        ),
        (prompt("{{ sentence"), 'which.yaml: template "default": bad template: '),
        ({"metric": None}, "which.yaml: metric: required"),
        ({"metrik": "accuracy"}, 'which.yaml: metrik: unknown field; did you mean "metric"?'),
        ({"labels": ["bad", "so so", "good"]}, 'which.yaml: template "default": 2 answers for 3 labels'),
        ({"gold": "label + 1"}, "unknown label 2; known: 0 bad, 1 good"),
        ({"gold": "lable"}, 'which.yaml: gold: no column "lable"; columns: sentence, label; did you mean "label"?'),
    ],
)
def test_task_files(refused: Refused, tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    data = write_rows(tmp_path / "rows.jsonl", [{"sentence": f"film {i}", "label": i % 2} for i in range(30)])
    path = tmp_path / "which.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in {**TASK, **changes}.items() if v is not None}))
    assert expected in refused(f"task.data={data}", task=path)


def test_a_dry_run_shows_the_prompt_and_predictions_hold_it(
    tiny_model_dir: Path, tokenizer_factory: Any, sentiment_file: Path, tmp_path: Path, capsys: Any
) -> None:
    model = shutil.copytree(tiny_model_dir, tmp_path / "model")
    with_template(tokenizer_factory, CHATML.replace("im_start", "s").replace("<|im_end|>", "</s>")).save_pretrained(
        model
    )
    fixed = ["--model", str(model), "--task", str(sentiment_file), "--method", "zero-shot"]
    chat = ["task.apply_chat_template=true", "task.system=Be brief.", "--output-dir", str(tmp_path / "out")]
    assert cli.run(["train", *fixed, *chat, "--dry-run"]) == 0
    assert "<|s|>system\nBe brief.</s>\n<|s|>user\nfilm " in capsys.readouterr().out
    assert cli.run(["train", *fixed, *chat]) == 0
    row = json.loads((tmp_path / "out/eval/predictions-theta.jsonl").read_text().splitlines()[0])
    assert row["prompt"].startswith("<|s|>system\nBe brief.</s>\n<|s|>user\nfilm ")
    assert row["prompt"].endswith("<|s|>assistant\n")
    assert row["answers"] == ["great", "terrible"]
    assert cli.run(["eval", str(tmp_path / "out")]) == 0, "an evaluation of the run reads as the run did"


# ------------------------------------------------------------------------------------- a base model that has changed


@pytest.mark.parametrize(
    "method",
    [["mezo"], ["bilevel-zofo"], ["two-stage"], ["fo-peft"], ["bilevel-fo"], ["fo-ft"], ["mezo", "--adapter", "lora"]],
    ids=" ".join,
)
def test_another_base_model(
    method: list[str], tiny_model_dir: Path, sentiment_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    model, out = shutil.copytree(tiny_model_dir, tmp_path / "model"), tmp_path / "out"
    fixed = ["--model", str(model), "--task", str(sentiment_file), "--output-dir", str(out), "--method", *method]
    assert cli.run(["train", *fixed, *SMALL]) == 0
    weights = load_file(model / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    weights[name][3, 4] += 1e-3
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    before = {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    for verb in (
        ["eval", str(out)],
        ["export", str(out), str(tmp_path / "final")],
        ["train", "--output-dir", str(out), "--resume", "latest", "--max-steps", "44"],
    ):
        capsys.readouterr()
        assert cli.run(verb) == 2, verb
        (line,) = (s for s in capsys.readouterr().err.splitlines() if s.startswith("error: "))
        assert "is not the one this run started from" in line, verb
        if method in (["mezo"], ["bilevel-zofo"], ["two-stage"]) and verb[0] != "train":
            assert f"tensor {name} of the base model" in line
        assert not (tmp_path / "final").exists()
        assert {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()} == before, verb


def test_an_interrupt_while_the_test_set_is_measured(
    tiny_model_dir: Path,
    sentiment_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Training is saved already: it says how to go on, also on SIGTERM, and what follows is the run as it would be."""

    def stopped(loop: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    fixed = ["train", "--model", str(tiny_model_dir), "--task", str(sentiment_file), "--method", "mezo", *SMALL]
    assert cli.run([*fixed, "--output-dir", str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(finetune, "finish", stopped)
        assert cli.run([*fixed, "--output-dir", str(tmp_path / "cut")]) == 128 + signal.SIGTERM
    command = f"zofo train --resume latest --output-dir {tmp_path / 'cut'}"
    assert f"the test set is not measured; go on with `{command}`, or" in capsys.readouterr().err
    assert not (tmp_path / "cut" / "run.json").exists()
    assert cli.run(["train", "--output-dir", str(tmp_path / "cut"), "--resume", "latest"]) == 0
    one, other = (json.loads((tmp_path / name / "run.json").read_text())["test"] for name in ("whole", "cut"))
    assert one == other
