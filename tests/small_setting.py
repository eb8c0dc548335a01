"""A small setting of the meta-test: four training tasks and three targets of every kind, and short runs on it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.conftest import NEGATIVE, POSITIVE
from tests.setting_files import JsonRow, task_args, write_setting
from zofo.api.metatest.plan import SEEDS
from zofo.cli import main as cli

KINDS = {"food": ["bread", "cheese", "soup"], "tool": ["saw", "drill", "axe"], "sport": ["golf", "chess", "judo"]}
SETTING = {
    "description": "small tasks in two domains",
    "train": ["mood", "sort", "saga", "pick"],
    "target": ["film", "kind", "quiz", "absent"],
    "unseen_domain": ["quiz"],
    "held_out": ["sort"],
}


def _row(task: str, text: str, output: str, options: Sequence[str]) -> JsonRow:
    return {"task": task, "input": text, "output": output, "options": list(options)}


def mood(task: str, n: int, seed: int) -> list[JsonRow]:
    """Two classes in turn; no two rows are the same."""
    draw, options, rows = random.Random(f"{task}/{seed}"), ("terrible", "great"), []
    for i in range(n):
        words = (NEGATIVE, POSITIVE)[i % 2]
        rows.append(_row(task, f"{draw.choice(words)}, {draw.choice(words)} {seed % 97}.{i}", options[i % 2], options))
    return rows


def kinds(task: str, n: int, seed: int) -> list[JsonRow]:
    """Three classes; of `sport` there are three rows in every 16."""
    draw, rows = random.Random(f"{task}/{seed}"), []
    for i in range(n):
        label = "sport" if i % 16 in (2, 7, 12) else ("food", "tool")[i % 2]
        rows.append(_row(task, f"{draw.choice(KINDS[label])} {seed % 97}.{i}", label, list(KINDS)))
    return rows


def quiz(task: str, n: int, seed: int) -> list[JsonRow]:
    """Each row has its own three options."""
    draw, rows = random.Random(f"{task}/{seed}"), []
    for i in range(n):
        label = draw.choice(list(KINDS))
        options = [draw.choice(KINDS[kind]) for kind in KINDS]
        rows.append(_row(task, f"a {label} {seed % 97}.{i}", options[list(KINDS).index(label)], options))
    return rows


def saga(task: str, n: int, seed: int) -> list[JsonRow]:
    """Free text: rows without options."""
    return [_row(task, f"day {i} of {seed % 97}", f"it was {POSITIVE[i % 6]}", []) for i in range(n)]


def metaicl_form(task: str, make: Callable[[str, int, int], list[JsonRow]]) -> dict[str, list[JsonRow]]:
    """Files of 16 train rows for each of MetaICL's seeds, and of the same 12 test rows with each."""
    train = {f"{task}/{task}_16_{seed}_train.jsonl": make(task, 16, seed) for seed in SEEDS}
    return train | {f"{task}/{task}_16_{seed}_test.jsonl": make(task, 12, 1) for seed in SEEDS}


def make_setting(folder: Path, **changes: Any) -> Path:
    """The setting's file, with the data beside it. changes: to what the file says; None leaves a key out."""
    files = {
        "mood/mood_16384_100_train.jsonl": mood("mood", 40, 5),
        "sort/train.jsonl": kinds("sort", 48, 6),
        "saga/train.jsonl": saga("saga", 30, 7),
        "pick/train.jsonl": quiz("pick", 40, 8),
        "pick/test.jsonl": quiz("pick", 10, 9),
        **metaicl_form("film", mood),
        **metaicl_form("kind", kinds),
        "quiz/train.jsonl": quiz("quiz", 30, 10),
        "quiz/test.jsonl": quiz("quiz", 12, 11),
    }
    return write_setting(folder, files, {**SETTING, **changes})


TRAIN = [
    "task.train_examples=18",
    "task.dev_examples=6",
    "task.test_examples=6",
    "train.max_steps=6",
    "train.eval_steps=6",
    "train.save_steps=6",
    "train.batch_size=3",
    "train.threads=1",
    "train.logging_steps=3",
]
BILEVEL = ["method.inner_steps=2", "method.tasks_per_step=2", "method.lr_s=3e-2", "method.lr_theta=1e-3"]
LORA = ["--adapter", "lora", "adapter.r=2"]
METHODS = {
    "bank": ["--method", "meta-bilevel-zofo", *BILEVEL, *LORA],
    "shared": ["--method", "meta-bilevel-zofo", *BILEVEL, *LORA, "method.adapters=shared"],
    "soft": ["--method", "meta-bilevel-zofo", *BILEVEL, "--adapter", "prompt", "method.adapters=shared"],
    "metaicl": ["--method", "metaicl", "task.num_fewshot=2", "method.lr=1e-3"],
    "channel": ["--method", "metaicl", "task.num_fewshot=2", "method.lr=1e-3", "task.template=channel"],
    "multi-task-ft": ["--method", "multi-task-ft", "method.lr=1e-3"],
    "mezo": ["--method", "mezo", "method.lr=1e-3"],
    "mezo-lora": ["--method", "mezo", *LORA, "method.lr=1e-2"],
    "fo-ft": ["--method", "fo-ft", "method.lr=1e-3"],
    "fo-peft": ["--method", "fo-peft", *LORA, "method.lr=1e-1"],
    "icl": ["--method", "icl", "task.num_fewshot=2"],
    "zero-shot": ["--method", "zero-shot"],
}


def train_args(model: Path, task: Sequence[str], out: Path, name: str, *more: str) -> list[str]:
    """The command line of a short run of METHODS[name]. task: its options --task and --data."""
    return ["train", "--model", str(model), *task, "--output-dir", str(out), *METHODS[name], *TRAIN, *more]


def train(model: Path, setting: Path, out: Path, name: str, *more: str) -> Path:
    """The directory of a short run."""
    assert cli.run(train_args(model, task_args(setting), out, name, *more)) == 0
    return out


def run_info(run: Path) -> JsonRow:
    return json.loads((run / "run.json").read_text())


def best_s(run: Path) -> Path:
    """Where a run has its best s, or a directory of it for each training task."""
    return run / f"best-{run_info(run)['best_step']}" / "s"
