"""lm-evaluation-harness on an export, with the files of docs/lm_eval.md: what agrees with zofo's numbers agrees."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import NEGATIVE, POSITIVE, ROOT, read_rows, sentiment_rows, write_rows
from zofo import evaluate, finetune

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs" / "lm_eval.md"
ADAPTERS = ["lora", "prompt", "prefix", "ia3"]
NEW = 24  # tokens of a generated text
BREAKS = """
version: 1
description: Sentences whose prompt ends in a line break
source: none
columns: [sentence, label]
kind: options
gold: label
labels: [bad, good]
objective: options
metric: accuracy
templates:
  default: {prompt: "{{ sentence }}\\n", answers: ["It was terrible", "great"]}
"""


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    pytest.importorskip("lm_eval", reason="needs the extra lm-eval")  # not at the top: `make test` does without it


def sst2_rows(n: int) -> list[dict[str, Any]]:
    return [{"sentence": row["text"], "label": int(row["label"] == "great")} for row in sentiment_rows(n)]


def copa_rows(n: int) -> list[dict[str, Any]]:
    """Choices of unequal length, so that a sum, a mean and a sum by characters choose differently."""
    rows = []
    for i in range(n):
        good, bad = POSITIVE[i % 6], NEGATIVE[(i // 6 + i) % 6]
        end = "the dog is doing what a dog does" if i % 3 else "once upon a time there was a little girl named Lily"
        choices = [f"The film was {good}.", f"The film was {bad} and {end}."]
        premise = f"I would {'gladly' if i % 3 else 'never'} see film {i} again."
        one, two = choices if i % 2 else choices[::-1]
        question = "cause" if i % 4 < 2 else "effect"
        rows.append({"premise": premise, "choice1": one, "choice2": two, "question": question, "label": i // 2 % 2})
    return rows


def squad_rows(n: int) -> list[dict[str, Any]]:
    rows = []
    for i in range(n):
        name, other = ("Lily", "Tom", "a dog", "a bird", "the sun")[i % 5], ("ball", "tree", "cake")[i % 3]
        context = f"One day {name} saw a {other}. It was {POSITIVE[i % 6]}."
        question = f"What was {POSITIVE[i % 6]}?" if i % 2 else f"Who saw the {other}?"
        text = {"text": [other if i % 2 else name], "answer_start": [0]}
        rows.append({"title": "Story", "context": context, "question": question, "answers": text})
    return rows


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for name, make in {"sst2": sst2_rows, "copa": copa_rows, "squad": squad_rows}.items():
        write_rows(root / name / "train.jsonl", make(64)[:40])
        write_rows(root / name / "test.jsonl", make(64)[40:])
    (root / "breaks.yaml").write_text(BREAKS)
    return root


Exports = Callable[[str, bool], Path]


@pytest.fixture(scope="module", params=["tiny_model_dir", "stories_dir"])
def exports(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, data: Path) -> Exports:
    """exports(adapter, merged): of a short Bilevel run on reviews, which moves theta and the adapter."""
    model, root, runs = request.getfixturevalue(request.param), tmp_path_factory.mktemp("runs"), {}

    def export(adapter: str, merged: bool) -> Path:
        if adapter not in runs:
            method = {"name": "bilevel-zofo", "inner_steps": 2, "lr_s": 1e-2, "lr_theta": 1e-4, "lam": 1.0}
            runs[adapter] = finetune(
                str(model),
                "sst2",
                method,
                adapter,
                output_dir=root / adapter,
                max_steps=12,
                batch_size=4,
                eval_steps=12,
                save_steps=12,
                overrides=[f"task.data={data / 'sst2'}", "model.device=cpu"],
            )
        out = root / f"{adapter}-{'merged' if merged else 'export'}"
        return out if out.exists() else runs[adapter].export(out, merge=merged)

    return export


def arguments(export: Path) -> str:
    """--model_args, as the page has it."""
    beside = (export / "adapter_config.json").exists()
    return (f"pretrained={export}/backbone,peft={export}" if beside else f"pretrained={export}") + ",dtype=float32"


def on_the_page(name: str) -> dict[str, Any]:
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.S)]
    return next(block for block in blocks if block["task"] == name)


def run(export: Path, folder: Path, **tasks: dict[str, Any]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """({task: its metrics}, {task: its samples, in the data's order}) of one call of the harness."""
    from lm_eval import simple_evaluate  # pyright: ignore[reportMissingImports]
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    for name, task in tasks.items():
        task["task"] = name
        task["dataset_kwargs"]["cache_dir"] = str(folder / "cache")
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))
    results: Any = simple_evaluate(
        model="hf",
        model_args=arguments(export),
        tasks=list(tasks),
        device="cpu",
        batch_size=1,
        log_samples=True,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
    )
    samples = {
        name: sorted(task_samples, key=lambda s: s["doc_id"]) for name, task_samples in results["samples"].items()
    }
    metrics = {
        name: {k.removesuffix(",none"): v for k, v in task_metrics.items()}
        for name, task_metrics in results["results"].items()
    }
    return metrics, samples


def ours(export: Path, task: str, data: Path, out: Path, **options: Any) -> tuple[dict[str, float], list[Any]]:
    values = evaluate(export, task=task, data=str(data), output=out, **options)
    return values, read_rows(out / "predictions.jsonl")


def reading(task: dict[str, Any], file: Path, **changes: Any) -> dict[str, Any]:
    return {**task, "dataset_kwargs": {"data_files": {"test": str(file)}}, **changes}


def sums(sample: dict[str, Any]) -> list[float]:
    return [float(option[0]) for option in sample["filtered_resps"]]


def by_space(file: Path) -> dict[str, Any]:
    """The page's task, changed as it says for answers that begin with a space."""
    choice = re.search(r'`doc_to_choice: "(.*?)"`', PAGE.read_text())
    assert choice
    return reading(on_the_page("zofo_options"), file, doc_to_choice=choice[1], target_delimiter=" ")


CASES = [("lora", False), ("lora", True), *((name, False) for name in ADAPTERS[1:])]


@pytest.mark.parametrize(("adapter", "merged"), CASES)
def test_options(exports: Exports, adapter: str, merged: bool, data: Path, tmp_path: Path) -> None:
    export, tasks, expected = exports(adapter, merged), {}, {}
    for name in ("sst2", "copa"):
        by_scoring = [
            ours(export, name, data / name, tmp_path / f"{name}-{how}", scoring=how) for how in ("sum", "characters")
        ]
        file = tmp_path / f"{name}-sum" / "predictions.jsonl"
        tasks[name] = reading(on_the_page("zofo_options"), file)
        tasks[f"{name}_by_space"] = by_space(file)
        expected[name] = expected[f"{name}_by_space"] = by_scoring
    metrics, samples = run(export, tmp_path, **tasks)

    for name, ((by_sum, rows), (by_characters, counted)) in expected.items():
        assert metrics[name]["acc"] == pytest.approx(by_sum["accuracy"], abs=1e-12)
        for theirs, row, other in zip(samples[name], rows, counted, strict=True):
            assert theirs["doc"]["id"] == row["id"] == other["id"]
            assert sums(theirs) == pytest.approx(row["scores"], abs=1e-4)
            assert theirs["acc"] == row["correct"]
            lengths = [len(answer) for answer in row["answers"]]
            assert all(answer[0] == " " for answer in row["answers"])
            scores = [s / n for s, n in zip(row["scores"], lengths)]  # the space counted
            if name.endswith("_by_space"):
                scores = other["scores"]
                assert [s * (n - 1) for s, n in zip(scores, lengths)] == pytest.approx(row["scores"], rel=1e-5)
            assert theirs["acc_norm"] == (scores.index(max(scores)) in row["gold"])
        if name.endswith("_by_space"):
            assert metrics[name]["acc_norm"] == pytest.approx(by_characters["accuracy"], abs=1e-12)
    one, two = ([row["predicted"] for row in rows] for _, rows in expected["copa"])
    assert one != two, "the two scores must tell apart what the harness computes"


def test_a_line_break_that_ends_a_prompt_is_scored_by_the_harness(exports: Exports, data: Path, tmp_path: Path) -> None:
    export = exports("lora", False)
    values, rows = ours(export, str(data / "breaks.yaml"), data / "sst2", tmp_path / "own", scoring="sum")
    task = reading(on_the_page("zofo_options"), tmp_path / "own" / "predictions.jsonl")
    metrics, samples = run(export, tmp_path, breaks=task)
    assert metrics["breaks"]["acc"] == pytest.approx(values["accuracy"], abs=1e-12)
    for theirs, row in zip(samples["breaks"], rows, strict=True):
        one, two = (our - their for our, their in zip(row["scores"], sums(theirs)))
        assert one == pytest.approx(two, abs=1e-4)
        assert one > 0.1


def test_mutual_information_is_calibrated_without_a_null_prompt(exports: Exports, data: Path, tmp_path: Path) -> None:
    export = exports("lora", False)
    values, rows = ours(export, "sst2", data / "sst2", tmp_path / "own", scoring="calibrated", template="plain")
    file = tmp_path / "own" / "predictions.jsonl"
    task = reading(on_the_page("zofo_options"), file, metric_list=[{"metric": "acc"}, {"metric": "acc_mutual_info"}])
    metrics, samples = run(export, tmp_path, calibrated=task)
    assert metrics["calibrated"]["acc_mutual_info"] == pytest.approx(values["accuracy"], abs=1e-12)
    for theirs, row in zip(samples["calibrated"], rows, strict=True):
        one, two, null_one, null_two = sums(theirs)
        assert [one - null_one, two - null_two] == pytest.approx(row["scores"], abs=1e-4)


@pytest.mark.parametrize("merged", [False, True])
def test_texts(exports: Exports, merged: bool, data: Path, tmp_path: Path) -> None:
    export = exports("lora", merged)
    _, rows = ours(export, "squad", data / "squad", tmp_path / "own", max_new_tokens=NEW)
    task = reading(on_the_page("zofo_texts"), tmp_path / "own" / "predictions.jsonl")
    task["generation_kwargs"] = {**task["generation_kwargs"], "max_gen_toks": NEW}
    metrics, samples = run(export, tmp_path, texts=task)
    pairs = [(theirs["filtered_resps"][0], row["generated"][0]) for theirs, row in zip(samples["texts"], rows)]
    assert len({text for _, text in pairs}) > 1
    for theirs, generated in pairs:
        assert theirs in (generated, generated.removeprefix(" "))
    assert metrics["texts"]["exact_match"] == sum(a == b for a, b in pairs) / len(pairs)


def test_the_command(exports: Exports, data: Path, tmp_path: Path) -> None:
    """As the page has it, offline, with this export's name."""
    export = exports("lora", True)
    values, _ = ours(export, "sst2", data / "sst2", tmp_path / "harness", scoring="sum")
    block = re.search(r"```yaml\n(task: zofo_options\n.*?)```", PAGE.read_text(), re.S)
    line = re.search(r"^lm-eval (run .* zofo_options .*)$", PAGE.read_text(), re.M)
    assert block
    assert line
    (tmp_path / "harness" / "zofo_options.yaml").write_text(block[1])
    command = line[1].replace("out/copa-export", str(export)).split()
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", *command],
        cwd=tmp_path,
        env=os.environ | offline,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (file,) = (tmp_path / "harness" / "results").glob("*/results_*.json")
    assert json.loads(file.read_text())["results"]["zofo_options"]["acc,none"] == pytest.approx(values["accuracy"])
