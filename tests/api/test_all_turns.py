"""task.loss_on=all in each verb: what a run trains, selects by, reports, records and is evaluated by is one F."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.chat_templates import CHATML, with_template
from tests.conftest import llama_config, make_tokenizer, read_rows, save_tiny, write_rows
from tests.small_runs import METHODS, SMALL
from zofo import evaluate, finetune
from zofo.cli import main as cli

ENDS = [(end, start) for end in ("great", "dull", "warm") for start in ("the film", "the plot", "a dog", "one two")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = with_template(make_tokenizer, CHATML)
    return save_tiny(tmp_path_factory.mktemp("chat"), llama_config(tokenizer, tied=True), tokenizer)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conversations of two and three turns of the assistant's."""
    listed = []
    for i, (end, start) in enumerate(ENDS * 2):
        said = [f"{start} {i}", f"it is {end}", "and then", end, "why", f"since {start} is {end}"][: 4 + 2 * (i % 2)]
        listed.append([{"role": ("user", "assistant")[j % 2], "content": text} for j, text in enumerate(said)])
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", [{"messages": turns} for turns in listed])


def task(rows: Path, **more: Any) -> Any:
    return {"name": str(rows), "loss_on": "all", "dev_examples": 6, "test_examples": 6} | more


def by_hand(export: Path, rows: list[dict[str, Any]]) -> float:
    """Of the texts of predictions.jsonl: minus the mean log-probability of all that stands between an assistant's
    header and the end of its turn, in float64."""
    model = AutoModelForCausalLM.from_pretrained(export, dtype=torch.float64)
    tokenizer = AutoTokenizer.from_pretrained(export)
    header = tokenizer("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    total, count = 0.0, 0
    for row in rows:
        ids = tokenizer(row["prompt"] + row["answers"][0], add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logp = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        for i in range(len(ids)):
            if ids[i : i + len(header)] == header:
                stop = ids.index(end, i)
                places = range(i + len(header), stop + 1)
                total, count = total - sum(float(logp[t - 1, ids[t]]) for t in places), count + len(places)
    return total / count


@pytest.mark.parametrize(
    "method",
    [pytest.param(m, marks=() if m in ("bilevel-zofo", "fo-peft") else pytest.mark.slow) for m in METHODS],
)
def test_of_a_run_its_export_and_other_rows(method: str, folder: Path, rows: Path, tmp_path: Path) -> None:
    micro: dict[str, Any] = {"micro_batch_size": 2} if method != "zero-shot" else {}
    run = finetune(str(folder), task(rows), METHODS[method], output_dir=tmp_path / "run", **SMALL, **micro)
    values = evaluate(run.path, output=tmp_path / "all")
    assert values["loss"] == pytest.approx(run.test["loss"], rel=1e-5)
    export = run.export(tmp_path / "export")
    expected = by_hand(export, read_rows(tmp_path / "all" / "predictions.jsonl"))
    assert values["loss"] == pytest.approx(expected, rel=1e-5)
    assert evaluate(export)["loss"] == pytest.approx(expected, rel=1e-5)
    assert json.loads((tmp_path / "all" / "results.json").read_text())["loss_on"] == "all"
    other = evaluate(run.path, task=str(rows), batch_size=5, output=tmp_path / "other")["loss"]
    assert other == pytest.approx(by_hand(export, read_rows(tmp_path / "other" / "predictions.jsonl")), rel=1e-5)
    assert abs(evaluate(run.path, overrides=["task.loss_on=last"])["loss"] - expected) > 1e-3


def test_resume_and_a_changed_conversation(
    folder: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Digests of the examples tell all from last, and a resumed run ends as the one that was not stopped."""
    settings: dict[str, Any] = {"output_dir": tmp_path / "run", **SMALL}
    whole = finetune(str(folder), task(rows), "mezo", **{**settings, "output_dir": tmp_path / "whole"})
    finetune(str(folder), task(rows), "mezo", **{**settings, "max_steps": 4})
    resumed = finetune(str(folder), task(rows), "mezo", **settings, resume="latest")
    assert resumed.test == whole.test
    args = ["train", "--model", str(folder), "--task", str(rows), "--method", "mezo", "train.max_steps=12"]
    args += [f"task.{key}={value}" for key, value in task(rows, loss_on="last").items() if key != "name"]
    args += [f"train.{key}={value}" for key, value in SMALL.items() if key != "max_steps"]
    assert cli.run([*args, "--output-dir", str(tmp_path / "run"), "--resume", "latest"]) == 2
    assert "loss_on" in capsys.readouterr().err


def test_validate_and_the_dry_run_show_it_and_memory_counts_it(
    folder: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--model", str(folder), "--task", str(rows), "--method", "mezo", "--output-dir", str(tmp_path / "run")]
    common += ["train.batch_size=4"]
    assert cli.run(["validate", *common, "task.loss_on=all"]) == 0
    assert "loss_on: all" in capsys.readouterr().out
    assert cli.run(["train", *common, "task.loss_on=all", "--dry-run"]) == 0
    assert "    learnt too: 'it is " in capsys.readouterr().out
    assert cli.run(["validate", *common, "task.loss_on=every"]) == 2
    assert 'task.loss_on: expected one of "last", "all", got "every"' in capsys.readouterr().err
    assert cli.run(["validate", "--model", str(folder), "--task", "sst2", "task.loss_on=all"]) == 2
    assert "task.loss_on: all is for rows of one's own with messages, not for sst2" in capsys.readouterr().err

    def peak(which: str) -> int:
        model = ["--model", str(folder), "--task", str(rows), "--method", "mezo"]
        assert cli.run(["memory", *model, "train.batch_size=4", f"task.loss_on={which}", "--json"]) == 0
        return json.loads(capsys.readouterr().out)["predicted"][0]["peak_bytes"]

    assert peak("all") > peak("last"), "logits are where labels are"
