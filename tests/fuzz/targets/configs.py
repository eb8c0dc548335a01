"""A configuration's YAML file, for `zofo validate` and, where that accepts it, `zofo train`."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import yaml

from tests.fuzz.case import Case, Expected
from tests.fuzz.damage import HOSTILE, RAW, spoil_bytes, spoil_value
from tests.fuzz.world import World

COUNT = 80
DEEP = 10_000
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi")
)
NAMED: list[tuple[str, str]] = [  # (what, the file's text behind a right one; "!" in front: the whole file)
    ("an alias bomb as a section", BOMB),
    ("an alias bomb as a value", "!model: {name: &a [x, x, x, x, x, x, x, x, x]}\ntask: {name: &b [*a, *a, *a, *a, *a]}"
     "\nmethod: {lr: &c [*b, *b, *b, *b, *b, *b, *b]}\ntrain: {seed: [*c, *c, *c, *c, *c, *c], output_dir: o}\n"),
    ("a list that holds itself", "!model: &m [*m]\n"),
    ("a mapping that holds itself", "!train: &t {seed: *t}\n"),
    ("a merge of itself", "!train: &t {<<: *t, seed: 1}\n"),
    ("deep lists", f"!model: {'[' * DEEP}{']' * DEEP}\n"),
    ("deep mappings", f"!model: {'{a: ' * DEEP}1{'}' * DEEP}\n"),
    ("deep sequences", "!model:\n " + "- " * DEEP + "1\n"),
    ("two documents", "---\nmodel: {name: other}\n"),
    ("a document's end", "...\nmodel: x\n"),
    ("a Python tag", "!model: !!python/object/apply:os.system ['true']\n"),
    ("a tag of one's own", "!model: !mine {name: x}\n"),
    ("a binary tag", "!model: !!binary aGVsbG8=\n"),
    ("a set", "!train: !!set {seed, output_dir}\n"),
    ("a time", "!train: {seed: 2001-12-14t21:59:43.10-05:00}\n"),
    ("a key twice", "train: {seed: 2}\n"),
    ("a list as a key", "!? [a, b]\n: 1\n"),
    ("an unknown alias", "!model: *nothing\n"),
    ("a tab", "!model:\n\tname: x\n"),
    ("a list at the top", "!- model\n- task\n"),
    ("a text at the top", "!model\n"),
    ("a number of 5,000 digits", f"!train: {{seed: {'9' * 5000}}}\n"),
    ("a number of 5,000 digits for a rate", f"!method: {{name: mezo, lr: {'9' * 5000}}}\n"),
    ("a key of 5,000 digits", f"!{'9' * 5000}: 1\n"),
    ("a key of 200,000 characters", f"!{'k' * 200_000}: 1\n"),
    ("NUL", "!model: \x00\n"),
    ("an escaped NUL in a path", '!model: {name: "a\\0b"}\n'),
    ("a surrogate in a path", '!model: {name: "a\\ud800b"}\n'),
    ("an escape sequence", '!model: {name: "\\e[2J"}\n'),
    ("an escape sequence as a key", '!"\\e[2J\\e[31m": 1\n'),
    ("a section that is a number", "!train: 7\n"),
    ("a section that is empty", "!train:\n"),
    ("a directive", "!%YAML 9.9\n---\nmodel: x\n"),
]  # fmt: skip


def right(world: World, out: Path, rng: random.Random) -> dict[str, Any]:
    method = rng.choice([{"name": "mezo"}, {"name": "bilevel-zofo", "inner_steps": 1}, {"name": "fo-peft"}])
    content: dict[str, Any] = {
        "model": {"name": str(world.model), "device": "cpu"},
        "task": {"name": str(world.rows), "choices": ["terrible", "great"], "train_examples": 12},
        "method": dict(method),
        "train": {"output_dir": str(out), "max_steps": 0, "batch_size": 4, "report_to": [], "seed": 1, "threads": 1},
    }
    if method["name"] != "mezo":
        content["adapter"] = {"name": "lora", "r": 2, "target_modules": ["q_proj"]}
    if method["name"] != "fo-peft":
        content["estimator"] = {"eps": 1e-3}
        content["rule"] = {"name": "sgd"}
    return content


def dump(tree: Any) -> str:
    text = yaml.safe_dump(tree, width=10**6)
    for stand_in, raw in RAW.items():
        text = text.replace(f"'{stand_in}'", raw)
    return text


def make(world: World, folder: Path, rng: random.Random, number: int) -> Case:
    out, path = folder / "out", folder / "config.yaml"
    content = right(world, out, rng)
    expect: Expected = "either"
    if number < len(NAMED):
        what, text = NAMED[number]
        written = (text[1:] if text[:1] == "!" else yaml.safe_dump(content) + text).encode()
        expect = "refused"
    elif number % 3:
        what, tree = spoil_value(rng, content)
        written = dump(tree).encode("utf-8", "surrogatepass")
    else:
        what, written = spoil_bytes(rng, yaml.safe_dump(content).encode())
    path.write_bytes(written)
    bounded = b"max_steps: 0" in written  # else what is rightly accepted is a run of 1000 steps, or of any number
    verb = ["train"] if number < len(NAMED) or (bounded and number % 2 == 0) else ["validate"]
    sections = tuple(f"{name}" for name in ("model", "task", "method", "train", "adapter", "estimator", "rule", "mask"))
    return Case(f"config: {what}", [*verb, str(path)], (path.name, "rows.jsonl", *sections), out, expect)


__all__ = ["COUNT", "HOSTILE", "make"]
