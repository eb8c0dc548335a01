"""`section.key=value` on the command line, every field of every section in turn."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

from tests.fuzz.case import Case, Expected
from tests.fuzz.damage import HOSTILE, RAW
from tests.fuzz.world import FEW, World
from zofo.config import registry
from zofo.config.resolve import CORE

COUNT = 110
DIRECTORY = "@directory@"  # a value's stand-in for one that is there
NAMED: list[tuple[str, str]] = [
    ("train.threads=100000", "train.threads"),
    ("train.batch_size=1000000000000", "train.batch_size"),
    ("train.eval_batch_size=1e30", "train.eval_batch_size"),
    ("train.max_steps=99999999999999999999999999", "train.max_steps"),
    ("train.max_replay_seconds=1e400", "train.max_replay_seconds"),
    ("train.seed=" + "9" * 5000, "train.seed"),
    ("train.save_steps=0x10", "train.save_steps"),
    ("train.max_steps=1e12", "train.max_steps"),
    ("model.device=mps", "model.device"),
    ("model.device=cuda:99", "model.device"),
    ("model.device=cuda:99999999999999999999", "model.device"),
    ("model.max_length=10000000000000", "model.max_length"),
    ("model.name=a\x00b", "model.name"),
    ("model.name=", "model.name"),
    ("model.name=" + "a/" * 5000, "model.name"),
    ("model.name=~/none", "model.name"),
    ("model.name=https://example.org/model", "model.name"),
    ("model.revision=../../x", "model."),
    ("task.name=a\x00b.jsonl", "task.name"),
    ("task.name=\ud800.jsonl", "task.name"),
    ("task.name=" + "x" * 5000 + ".jsonl", "task.name"),
    ("task.name=/dev/null", "task.name"),
    ("task.name=rows.txt", "task.name"),
    ("task.name=rows.json", "task.name"),
    ("task.data=a\x00b", "task.data"),
    ("task.choices=[terrible, great, terrible]", "task.choices"),
    ("task.choices=[terrible]", "task.choices"),
    ("task.choices=" + "[" * 10_000 + "]" * 10_000, "task.choices"),
    ("task.choices={a: &a [*a]}", "task.choices"),
    ("train.output_dir=a\x00b", "train.output_dir"),
    ("train.output_dir=/dev/null/x", "/dev/null"),
    ("train.output_dir=/proc/none/x", "/proc"),
    ("train.output_dir=" + "d" * 300, "train.output_dir"),
    ("train.resume=a\x00b", "train.resume"),
    ("train.report_to=[tensorboard, 3]", "train.report_to"),
    ("task.train_examples=0", "task.train_examples"),
    ("task.num_fewshot=1000000", "num_fewshot"),
    ("method.lr=1e400", "method.lr"),
    ("method.lr=.nan", "method.lr"),
    ("method.lr=0x1p3", "method.lr"),
    ("estimator.eps=1e-400", "estimator.eps"),
    ("=1", "section.key"),
    ("train=", "train"),
    ("train.=1", "train."),
    (".seed=1", ".seed"),
    ("train.seed.x=1", "train.seed.x"),
    ("\x1b[31mtrain.seed=1", "seed"),
    ("\ud800=1", "section"),
]  # fmt: skip
# What runs long or much where it is meant, or ends a run by design
LEFT_OUT = {"max_steps", "overwrite", "output_dir", "report_to"}


def make(world: World, folder: Path, rng: random.Random, number: int) -> Case:
    out = folder / "out"
    method = rng.choice(["mezo", "bilevel-zofo", "fo-peft", "fo-ft", "zero-shot"])
    expect: Expected = "either"
    if number < len(NAMED):
        method, expect = "mezo", "refused"
        text, place = NAMED[number]
        names: tuple[str, ...] = (place,)
    else:
        classes = {**CORE, "method": registry.load("methods", method).Config}
        if method in ("bilevel-zofo", "fo-peft"):
            classes["adapter"] = registry.load("adapters", "lora").Config
        if method in ("mezo", "bilevel-zofo"):
            classes["estimator"] = registry.load("estimators", "spsa").Config
        fields = [
            f"{s}.{f.name}" for s, cls in classes.items() for f in dataclasses.fields(cls) if f.name not in LEFT_OUT
        ]
        field = rng.choice(fields)
        value = str(rng.choice(HOSTILE))
        text, names = f"{field}={RAW.get(value, value)}", (field, field.partition(".")[2], "rows.jsonl")
    fixed = ["--model", str(world.model), "--task", str(world.rows), "--method", method]
    more = [] if text.startswith("train.output_dir") else ["--output-dir", str(out)]
    return Case(f"override: {text[:80]!r}", ["train", *fixed, *more, *FEW, text], names, out, expect)
