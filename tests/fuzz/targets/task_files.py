"""A task's .yaml file, and rows that do not go with it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from tests.conftest import write_rows
from tests.fuzz.case import Case, Expected
from tests.fuzz.damage import dumps, spoil_bytes, spoil_value
from tests.fuzz.targets.configs import dump
from tests.fuzz.world import FEW, World

COUNT = 90
OPTIONS: dict[str, Any] = {
    "version": 1,
    "description": "films, good or bad",
    "source": "made up",
    "columns": ["film", "verdict"],
    "kind": "options",
    "gold": "verdict",
    "objective": "options",
    "metric": "accuracy",
    "labels": ["bad", "good"],
    "templates": {"default": {"prompt": "{{ film }}: it is", "answers": [" bad", " good"]}},
    "demonstrations": [{"film": "a warm one", "verdict": 1}],
}
WRITTEN: dict[str, Any] = {
    "version": 1,
    "description": "names of films",
    "source": "made up",
    "columns": ["film", "name"],
    "kind": "generation",
    "reference": "name",
    "objective": "lm",
    "metric": ["token_f1", "exact_match"],
    "generation": {"max_new_tokens": 4, "stop": ["\n"]},
    "templates": {"default": {"prompt": "{{ film }}\nName:", "answers": [" {{ name }}"]}},
}
PROMPTS: list[tuple[str, Expected]] = [  # (a template's prompt, expected)
    ("{{ film", "refused"),
    ("{% if film %}", "refused"),
    ("{{ flim }}", "refused"),
    ("{{ film | nofilter }}", "refused"),
    ("{{ film is notest }}", "refused"),
    ("{{ film.__class__.__mro__ }}", "refused"),
    ("{{ 1 / 0 }}{{ film }}", "refused"),
    ("{{ film * 1000000000 }}", "refused"),
    ("{{ 'x' * 10 ** 12 }}{{ film }}", "refused"),
    ("{{ 9 ** (9 ** 9) }}{{ film }}", "refused"),
    ("{{ film.center(10 ** 11) }}", "refused"),
    ("{{ '%01000000000d' % 1 }}{{ film }}", "refused"),
    ("{{ '{:>1000000000}'.format(film) }}", "refused"),
    ("{{ film | indent(1000000000) }}", "refused"),
    ("{% for i in range(1000000) %}{{ film }}{% endfor %}", "refused"),
    ("{% for i in range(99999) %}{% for j in range(99999) %}{{ film }}{% endfor %}{% endfor %}", "refused"),
    ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}{{ film }}", "refused"),
    ("{{ (film ~ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!') | resub('a(a+)+$', '') }}", "either"),
    ("{{ film | resub('(', '') }}", "refused"),
    ("{% include 'x' %}{{ film }}", "refused"),
    ("{% import 'x' as x %}{{ film }}", "refused"),
    ("{% set film = film %}{{ film }}", "either"),
    ("{{ '' }}", "refused"),
    ("{{ '\\ud800' }}{{ film }}", "refused"),
    ("{{ film }}{{ caller() }}", "refused"),
    ("{{ lipsum(100000) }}{{ film }}", "either"),
    ("{{ cycler }}{{ film }}", "either"),
    ("{{" * 5_000, "refused"),
    ("(" * 5_000 + "{{ film }}", "accepted"),
    ("{{ " + "(" * 3_000 + "film" + ")" * 3_000 + " }}", "refused"),
    ("{{ " + "-" * 5_000 + "1 }}{{ film }}", "refused"),
]  # fmt: skip
GENERATION: list[Any] = [
    {"samples": 0}, {"max_new_tokens": -1}, {"temperature": float("nan")}, {"top_p": 2}, {"stop": [""]},
    {"max_new_tokens": 10**30}, {"samples": 10**9}, {"stop": "x"}, {"tempreature": 1}, 7, {"stop": [7]},
]  # fmt: skip


def make(world: World, folder: Path, rng: random.Random, number: int) -> Case:
    path, out = folder / "films.yaml", folder / "out"
    content, rows = OPTIONS, [{"film": f"film {i}", "verdict": i % 2} for i in range(16)]
    expect: Expected = "refused"
    names: tuple[str, ...] = ("films.yaml", "task.", "rows.jsonl")
    at = number - len(PROMPTS)
    if at < 0:
        prompt, expect = PROMPTS[number]
        what, content = prompt[:60], {**OPTIONS, "templates": {"default": {"prompt": prompt, "answers": [" a", " b"]}}}
        written = dump(content)
        if "\\ud800" in prompt:
            written = written.replace("'''\\ud800'''", "'\\ud800'")
    elif at < len(GENERATION):
        what, content = f"generation {GENERATION[at]}", {**WRITTEN, "generation": GENERATION[at]}
        written, rows = dump(content), [{"film": f"film {i}", "name": f"name {i}"} for i in range(16)]
    elif number % 4 == 0:
        expect: Expected = "either"
        what, text = spoil_bytes(rng, dump(content).encode())
        path.write_bytes(text)
        written = None
    elif number % 4 == 1:
        expect, names = "either", ("rows.jsonl", "films.yaml")
        index = rng.randrange(len(rows))
        what, rows[index] = spoil_value(rng, rows[index])
        written = dump(content)
    else:
        expect: Expected = "either"
        content = WRITTEN if number % 8 > 3 else OPTIONS
        rows = [{**row, "name": f"name {i}"} for i, row in enumerate(rows)]
        what, changed = spoil_value(rng, content)
        written = dump(changed)
    if written is not None:
        path.write_text(written, encoding="utf-8", errors="surrogatepass")
    data = folder / "rows.jsonl"
    if number % 4 == 1:
        data.write_text("".join(dumps(row) + "\n" for row in rows))
    else:
        write_rows(data, rows)
    args = ["train", "--model", str(world.model), "--task", str(path), "--data", str(data), "--method", "zero-shot"]
    small = ["task.test_examples=2", "task.dev_examples=2"]
    return Case(f"task file: {what}", [*args, "--output-dir", str(out), *FEW, *small], names, out, expect)
