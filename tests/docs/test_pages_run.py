"""Every command and snippet of the pages runs as it stands there, in the order of the page, on small models and rows.

tests/page_world.py has what they find; SHORTER is all that is changed in them. What is not run is marked in the page,
with the reason (tests/pages.py). `pytest -m slow tests/docs` runs the long pages.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset
from torch import nn
from torch.nn import functional as F

from tests.conftest import ROOT
from tests.page_world import add_experiments, load_dataset, make_model, make_world, sst2
from tests.pages import PAGES, SHELL, Block, blocks, commands, name_of
from zofo.cli import main as cli

TRAIN = "train.batch_size=4 train.eval_steps=11 train.save_steps=11 task.train_examples=24 task.dev_examples=6"
SMALL = f"{TRAIN} task.test_examples=6 train.max_steps=11"
# What is shortened in each page: (as it stands there, as it runs here). Every line must still be there.
SHORTER: dict[str, list[tuple[str, str]]] = {
    "README.md": [
        ('overrides=["task.data', 'max_steps=11, overrides=["task.test_examples=6", "task.data'),
        ("--task mine.jsonl --output-dir out/mine", f"--task mine.jsonl --output-dir out/mine {SMALL}"),
        ("make ", "make -n "),
    ],
    "CONTRIBUTING.md": [
        ("make ", "make -n "),
        (".ci/run ", "bash -n .ci/run "),
        (".venv/bin/pre-commit install", f"{sys.executable} -m pre_commit validate-config"),
    ],
    "docs/tour.md": [
        ("train.max_steps=66", SMALL),
        ("max_steps: 330, batch_size: 16, micro_batch_size: 4,", "max_steps: 11, batch_size: 4, micro_batch_size: 2,"),
        ("warmup_steps: 20", "warmup_steps: 2"),
        ("train_examples: 1000, dev_examples: 200, test_examples: 500", "train_examples: 24, dev_examples: 6"),
        ("max_steps=500, callbacks=[]", "max_steps=4, callbacks=[], batch_size=4"),
    ],
    "docs/report.md": [("train.max_steps=66", SMALL)],
    "docs/check.md": [("zofo check", "zofo check --tiny")],
    "docs/leaderboard.md": [("--reduced --task", "--reduced --no-estimate --task")],
    "docs/sweep.md": [
        ("{max_steps: 200, eval_steps: 50, save_steps: 50,", "{max_steps: 4, eval_steps: 2, save_steps: 2,"),
        ("{max_steps: 110, eval_steps: 55, save_steps: 55,", "{max_steps: 22, eval_steps: 11, save_steps: 11,"),
        ("task: sst2\n", "task: {name: sst2, train_examples: 24, dev_examples: 6, test_examples: 6}\n"),
        ("--only two-stage-1e-6", f"--only two-stage-1e-6 {SMALL}"),
        ("--output-dir out/ablation", f"--output-dir out/ablation {TRAIN} train.max_steps=2 task.test_examples=6"),
        ("--output-dir out/words", f"--output-dir out/words {TRAIN} train.max_steps=2"),
    ],
    "experiments/README.md": [
        ("--output-dir out/sst2", f"--output-dir out/sst2 --only mezo {SMALL}"),
        ("--output-dir out/bands", f"--output-dir out/bands --only band-0-25 {SMALL}"),
        ("--data SST2_DIR --dry-run", f"--data SST2_DIR --dry-run {SMALL}"),
    ],
    "docs/add_a_task.md": [("train.max_steps=20", "train.max_steps=4 train.batch_size=2")],
    "docs/zo_family.md": [
        ("--output-dir out/sparse", f"--output-dir out/sparse {TRAIN} train.max_steps=2"),
        ("--output-dir out/lozo", f"--output-dir out/lozo {TRAIN} train.max_steps=2"),
        ("--output-dir out/both", f"--output-dir out/both {SMALL}"),
        ('SFTConfig("out", ', 'SFTConfig("out", use_cpu=True, bf16=False, report_to=[], max_steps=2, '),
    ],
    "docs/serving.md": [("train.max_steps=330", SMALL)],
    "docs/quantization.md": [("--output-dir out/int8", f"--output-dir out/int8 {SMALL}")],
    "docs/memory.md": [
        ("--length 64", "--length 16"),
        ("train.batch_size=32 train.micro_batch_size=8", "train.batch_size=8 train.micro_batch_size=4"),
        ("train.batch_size=16", "train.batch_size=4"),
        ("--fits 24 --model llama-3.1-8b", "--fits 24 --model smollm2-135m --length 16 --method mezo"),
        ("--fits 16 --model smollm2-1.7b", "--fits 16 --model smollm2-135m --length 16 --method mezo"),
        ("--fits 8,12,16,24,80 --length 512", "--fits 8,80 --length 16 --method mezo"),
        ("--fits 12,16,24 --length 512 --model llama-3.1-8b", "--fits 12,16 --length 16 --model smollm2-135m"),
    ],
    "docs/meta_training.md": [
        ("--output-dir out/meta", f"--output-dir out/meta {SMALL} method.tasks_per_step=2"),
        ("--output out/meta-test ", "--output out/meta-test --seeds 100 --rate-runs 1 --rates 1e-3 --steps 2 "),
        ("--output out/plain", "--output out/plain --seeds 100"),
        ("seeds=(100, 13)", "seeds=(100,), steps=2"),
    ],
    "docs/coming_from.md": [
        ("--max-steps 20000", "--max-steps 2"),
        ("model.dtype=float16", "model.dtype=bfloat16"),  # half precision on a CPU takes its time
        ("train.batch_size=16 train.eval_steps=4000 train.save_steps=4000", "train.batch_size=4"),
        ("train_examples=1000 task.dev_examples=500 task.test_examples=1000", "train_examples=24 task.dev_examples=6"),
        ("--num-train-epochs 3", "--num-train-epochs 1"),
    ],
    "docs/howto.md": [
        ("--train-file mine.jsonl --output-dir out/table", f"--train-file mine.jsonl --output-dir out/table {SMALL}"),
        ("--length 128 --method mezo --method fo-peft --method bilevel-zofo", "--length 16 --method mezo"),
    ],
    "docs/performance.md": [("--json FILE", "--json FILE --sizes 2x16 --rounds 1 --threads 1")],
    "docs/rewards.md": [
        ("--limit 64", "--limit 4"),
        ("limit=64", "limit=4"),
        ("train.batch_size=8 train.max_steps=40 train.eval_steps=20", "train.batch_size=2 train.max_steps=2"),
        ("task.dev_examples=32 task.test_examples=64", "task.dev_examples=4 task.test_examples=4"),
    ],
    "docs/compare.md": [
        ("--output-dir out/lora-0", f"--output-dir out/lora-0 {SMALL}"),
        ("--output-dir out/lora-1", f"--output-dir out/lora-1 {SMALL}"),
        ("--output-dir out/mezo-0", f"--output-dir out/mezo-0 {TRAIN} train.max_steps=2"),
        ("--output-dir out/mezo-1", f"--output-dir out/mezo-1 {TRAIN} train.max_steps=2"),
    ],
    "docs/watching.md": [("--output-dir out/tour", f"--output-dir out/tour {SMALL}")],
    "docs/signal.md": [
        ("--limit 64 --directions 16", "--limit 8 --directions 2"),
        ("--output-dir out/tour", f"--output-dir out/tour {SMALL}"),
        ("zofo signal out/tour ", "zofo signal out/tour --limit 8 --directions 2 "),
        ("--by-layer 4", "--by-layer 2"),
        ("--json", "--json --limit 8 --directions 2"),
    ],
    "docs/scale.md": [
        ("--output-dir out/two", f"--output-dir out/two {SMALL}"),
        ("--output-dir out/grid", f"--output-dir out/grid {SMALL}"),
        ("--output-dir out/large", f"--output-dir out/large {SMALL}"),
        ("--output-dir out/tensor", f"--output-dir out/tensor {SMALL}"),
        ("--output-dir out/fsdp", f"--output-dir out/fsdp {SMALL}"),
    ],
    "docs/meta_data.md": [("--train-examples 500", "--train-examples 30")],
}
BEFORE: dict[str, list[str]] = {  # what the reader of a page has from another one
    "docs/memory.md": [f"zofo train --preset quickstart --model MODEL --task mine.jsonl --output-dir out/tour {SMALL}"],
    "docs/lm_eval.md": [
        f"zofo train --model MODEL --task copa --method fo-peft --output-dir out/copa {TRAIN} train.max_steps=2"
    ],
}
AGAIN = {  # finished results that these pages' commands skip: taken away, so that the commands make them
    "docs/performance.md": [],
    "docs/tasks.md": ["tasks_smollm2/copa-0shot.json", "tasks_smollm2/copa-fo-lora.json"],
    "experiments/README.md": [
        "meta_smollm2_smoke/class_to_class-plain.json",
        "half_batch_smollm2/rte-pretrained-*.json",
        "half_batch_smollm2/boolq-trained-*.json",  # of which one is there, and two are wanted
    ],
}
SLOW = {"docs/memory.md", "docs/performance.md", "docs/scale.md", "docs/tasks.md", "experiments/README.md"}
ELSEWHERE = {"docs/add_an_estimator.md", "docs/add_an_objective.md"}  # tests/docs/test_new_files.py


def provided(page: str) -> dict[str, Any]:
    """Names that a page's snippet takes from its reader."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    batch = (torch.randn(16, 8), torch.randint(0, 3, (16,)))
    given: dict[str, dict[str, Any]] = {
        "README.md": {"model": model, "batches": [batch] * 3},
        "docs/zo_family.md": {
            "model": model,
            "data": [batch] * 3,
            "loss_of": lambda m, b: F.cross_entropy(m(b[0]), b[1]),
            "rows": Dataset.from_list([{"text": row["sentence"]} for row in sst2(16)]),
        },
    }
    return given.get(page, {})


class Reader:
    """Goes through a page as somebody would who does what it says."""

    def __init__(self, page: Path, folder: Path) -> None:
        self.page, self.folder, self.printed = name_of(page), folder, ""
        self.names = types.ModuleType("page")
        self.names.__dict__.update(provided(self.page))
        self.shortened: set[str] = set()
        self.not_run: list[str] = []

    def shorter(self, text: str) -> str:
        for old, new in SHORTER.get(self.page, []):
            if old in text:
                self.shortened.add(old)
                text = text.replace(old, new)
        return text

    def take(self, block: Block) -> None:
        if block.note == "not run":
            assert block.said, f"{block.place}: say why it is not run"
            self.not_run.append(f"{block.place}: {block.said}")
        elif block.note == "printed":
            check_output(block, self.printed)
        elif block.note == "saved as":
            self.save(block)
        elif block.language in SHELL:
            self.printed = "".join(self.command(line, block.place) for line in commands(self.shorter(block.text)))
        elif block.language == "python":
            self.printed = self.python(block)
        elif block.language == "json":
            assert all(isinstance(json.loads(line), dict) for line in block.text.splitlines()), block.place
        else:
            pytest.fail(f"{block.place}: a block that is neither run nor marked (tests/pages.py)")

    def save(self, block: Block) -> None:
        path, text = self.folder / block.said, self.shorter(block.text)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        if block.language == "yaml":
            assert isinstance(yaml.safe_load(text), dict), block.place

    def python(self, block: Block) -> str:
        out = io.StringIO()
        text = "\n" * block.line + self.shorter(block.text)
        with contextlib.redirect_stdout(out):
            exec(compile(text, str(ROOT / block.page), "exec"), self.names.__dict__)
        for shown in re.findall(r"^print\(.*\) +# (\{.*\})$", block.text, re.M):  # {"loss": ..., "n": 500}
            keys = [list(eval(line)) for line in out.getvalue().splitlines() if line.startswith("{")]
            assert list(eval(shown)) in keys, f"{block.place}: {shown} is not what is printed: {keys}"
        return out.getvalue()

    def command(self, line: str, place: str) -> str:
        words = shlex.split(line, comments=True)
        if words[0] == "zofo":
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = cli.run(words[1:])
            assert code == 0, f"{place}: {line}: exit code {code}\n{err.getvalue()}"
            return out.getvalue() + err.getvalue()
        if words[0] == "torchrun":
            return self.module(["torch.distributed.run", *words[1:]], place)
        if words[:2] == ["python", "-m"]:
            return self.module(words[2:], place)
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{place}: {line}: exit code {done.returncode}\n{done.stderr}"
        return done.stdout

    def module(self, words: list[str], place: str) -> str:
        """`python -m ...` in a process of its own, in the world's copies of experiments, benchmarks and results."""
        path = os.pathsep.join([str(self.folder), str(ROOT / "src")])
        command = [sys.executable, "-m", *words]
        env = {**os.environ, "PYTHONPATH": path}
        done = subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, f"{place}: {' '.join(words)}: exit code {done.returncode}\n{done.stderr}"
        return done.stdout


def check_tour(folder: Path) -> None:
    """The tour's tables name every file of a run and every key of run.json, and no key that is not there."""
    page, run = (ROOT / "docs" / "tour.md").read_text("utf-8"), folder / "out" / "tour"
    files, keys = (page.partition(head)[2].partition("\n\n")[0] for head in ("| file | what |", "| key | what |"))
    for path in run.iterdir():
        name = re.sub(r"-\d+$", "-N", path.name) + "/" * path.is_dir()
        assert f"`{name}" in files, f"docs/tour.md does not name {path.name} of a run's directory"
    named = {key for line in keys.splitlines() for key in re.findall(r"`(\w+)`", line.split("|")[1] if line else "")}
    assert named == set(json.loads((run / "run.json").read_text()))


def check_output(block: Block, printed: str) -> None:
    """Every line that the page shows was printed, whatever its numbers; `...` stands for anything."""
    for line in block.text.splitlines():
        pattern = re.sub(r"\\?\d+(?:\\?[.,]\d+)*", r"[\\d.,]+", re.escape(line)).replace(re.escape("..."), ".*")
        assert re.search(rf"^(?:note: )?{pattern}$", printed, re.M), f"{block.place}: not printed: {line}\n{printed}"


@pytest.fixture(scope="session")
def page_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("page-model"))


@pytest.fixture
def reader(request: pytest.FixtureRequest, page_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    monkeypatch.chdir(make_world(tmp_path / "world", page_model))
    return Reader(request.param, tmp_path / "world")


def marked(page: Path) -> Any:
    name = name_of(page)
    return pytest.param(page, id=name, marks=pytest.mark.slow if name in SLOW else ())


@pytest.mark.parametrize("reader", [marked(page) for page in PAGES if name_of(page) not in ELSEWHERE], indirect=True)
def test_a_page_runs(reader: Reader, caplog: pytest.LogCaptureFixture) -> None:
    again = AGAIN.get(reader.page, [])
    if reader.page in AGAIN:
        add_experiments(reader.folder, again)
    for line in BEFORE.get(reader.page, []):
        reader.command(line, "before the page")
    for block in blocks(ROOT / reader.page):
        reader.take(block)
    table = {old for old, _ in SHORTER.get(reader.page, [])}
    if reader.page == "docs/tour.md":
        check_tour(reader.folder)
    assert all(any((reader.folder / "results").glob(pattern)) for pattern in again)
    assert reader.shortened == table, "the table of what is shortened names what is not in the page"
