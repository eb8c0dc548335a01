"""Right templates made up by chance: each is accepted, and what it makes of a row is what plain Jinja makes."""

from __future__ import annotations

import contextlib
import io
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tests.conftest import read_rows, write_rows
from tests.fuzz.case import Case
from tests.fuzz.targets.configs import dump
from tests.fuzz.targets.task_files import OPTIONS
from tests.fuzz.world import FEW, World, copied
from zofo.cli import main as cli

TEXTS = [  # of X, a text of the row's
    *("X", "X | upper", "X | trim", "X | title", "X | replace('i', 'o')", "X ~ '?'", "X[::-1]", "'%s!' % X"),
    *("X.split() | join(', ')", "X.upper().lower()", "X | list | first", "X.split() | map('upper') | join('-')"),
    *("[X, 'x'] | join(' or ')", "X | center(12)", "X | wordwrap(9)", "X | truncate(9)", "X | e", "X | default('z')"),
    *("{'a': X}['a']", "X | indent(2)", "X.partition(' ')[2]", "X | batch(3) | list | length", "X | capitalize"),
    *("'{} and {}'.format(X, 1)", "X | string | wordcount", "X | reverse", "X | unique | join", "X.count('i')"),
]
OTHERS = [
    "X | length",
    "3 + 4 * 2",
    "7 // 2",
    "2 ** 5",
    "1.5 * 2",
    "range(4) | sum",
    "[3, 1, 2] | sort | first",
    "'a' * 5",
]
TESTS = ["X | length > 7", "'1' in X", "X is string", "not X", "X == X | lower", "X | length is odd", "true and X"]
ROOM = 90  # characters of a chat, which the tiny model takes whole
LISTS = ["X.split()", "range(3)", "[1, 'b', X]", "X | list", "[]", "{'a': 1, 'b': 2}.items()", "X.split() | sort"]


def _expression(rng: random.Random) -> str:
    text = rng.choice(TEXTS * 3 + OTHERS)
    return f"({text}) ~ ({rng.choice(TEXTS)})" if rng.random() < 0.2 else text


def _dashed(rng: random.Random, *parts: str) -> str:
    """Parts such as `% if x %`, some with a dash that takes the white space beside them away."""
    signs = ("", "", "-")
    return "".join(
        part if not part.startswith("%") else f"{{%{rng.choice(signs)}{part[1:-1]}{rng.choice(signs)}%}}"
        for part in parts
    )


def statement(rng: random.Random, depth: int) -> str:
    how = rng.randrange(12) if depth else rng.randrange(4)
    inner = "".join(statement(rng, depth - 1) for _ in range(rng.randint(1, 2))) if depth else ""
    name = f"v{rng.randrange(99)}"
    match how:
        case 0:
            return rng.choice(
                [" a film: ", "\n", "it is \n  so ", "{{ '{{' }}", "{# a note #} ", "{% raw %}{{ }}{% endraw %}"]
            )
        case 1 | 2 | 3:
            return "{{ " + _expression(rng) + " }}"
        case 4:
            return _dashed(rng, f"% if {rng.choice(TESTS)} %", inner, "% else %", " no ", "% endif %")
        case 5:
            last = "{% if not loop.last %}, {% endif %}"
            return _dashed(rng, f"% for i in {rng.choice(LISTS)} %", "{{ i }}{{ loop.index }}", last, "% endfor %")
        case 6:
            return _dashed(rng, f"% set {name} = {_expression(rng)} %", f"{{{{ {name} }}}}")
        case 7:
            return _dashed(rng, f"% set {name} %", inner, "% endset %", f"{{{{ {name} | length }}}}{{{{ {name} }}}}")
        case 8:
            body = _dashed(rng, f"% macro {name}(a, b=2) %", "{{ a }}+{{ b }}", "% endmacro %")
            return body + f"{{{{ {name}('x') }}}} {{{{ {name}(1, b='y') }}}}"
        case 9:
            return _dashed(rng, f"% with {name} = {_expression(rng)} %", f"{{{{ {name} }}}}", inner, "% endwith %")
        case 10:
            return _dashed(rng, f"% filter {rng.choice(['upper', 'trim', 'title'])} %", inner, "% endfilter %")
        case _:
            given = f"namespace(n=0) %}}{{% for i in {rng.choice(LISTS)} %}}{{% set {name}.n = {name}.n + 1"
            return f"{{% set {name} = {given} %}}{{% endfor %}}{{{{ {name}.n }}}}"


def program(rng: random.Random, row: str) -> str:
    """row: an expression for the row's text. Nothing in it ends in white space, or comes out empty."""
    body = "".join(statement(rng, rng.randint(0, 2)) for _ in range(rng.randint(1, 4)))
    return (body + " {{ X }}").replace("X", row)


def task(world: World, folder: Path, rng: random.Random) -> Case:
    """A task file's. Its losses are those of own files with the texts that plain Jinja writes."""
    text, path, out = program(rng, "film") + " it was", folder / "films.yaml", folder / "out"
    path.write_text(dump({**OPTIONS, "templates": {"default": {"prompt": text, "answers": [" a", " b"]}}}), "utf-8")
    rows = [{"film": f"Film {i} is {'a' * i}n odd one", "verdict": i % 2} for i in range(8)]
    plain = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    data = write_rows(folder / "rows.jsonl", rows)

    def check(_: str) -> str:
        made = _by_row(out)
        expected = {number: plain.from_string(text).render(rows[number]) for number in made}
        if wrong := _differing({number: each["prompt"] for number, each in made.items()}, expected):
            return wrong
        asked = [{"text": expected[n], "label": "ab"[rows[n]["verdict"]]} for n in made]
        losses = _losses(world, folder, write_rows(folder / "texts.jsonl", asked))
        theirs = {expected[n]: made[n]["loss"] for n in made}
        odd = next((p for p, loss in theirs.items() if not math.isclose(loss, losses[p], rel_tol=1e-4)), None)
        return "" if odd is None else f"loss {theirs[odd]} for {losses[odd]} of {odd!r}"

    args = ["--model", str(world.model), "--task", str(path), "--data", str(data)]
    return _case(f"right task template: {text[:300]}", args, out, check)


def chat(world: World, folder: Path, rng: random.Random) -> Case:
    """A model's chat template."""
    head, foot = rng.choice([("<{{ m.role }}> ", "\n"), ("[{{ m['role'] | upper }}]", " "), ("", "||")])
    rows = [{"text": f"Film {i} is odd", "label": "ab"[i % 2]} for i in range(24)]
    plain = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)  # as transformers has it

    def written(text: str, row: dict[str, str]) -> str:
        turns = [{"role": "user", "content": row["text"]}, {"role": "assistant", "content": "@@@"}]
        return plain.from_string(text).render(messages=turns).rpartition("@@@")[0]

    text = ""
    while not text or max(len(written(text, row)) for row in rows) > ROOM:
        turn = program(rng, "m['content']")
        text = (
            f"{{% for m in messages %}}{head}{{% if m.role == 'user' %}}{turn}{{% else %}}"
            f"{{{{ m['content'] }}}}{{% endif %}}{foot}{{% endfor %}}"
            f"{{% if add_generation_prompt %}}{head.replace('m.role', repr('assistant'))}{{% endif %}}"
        )
    model, out = copied(world.model, folder), folder / "out"
    (model / "chat_template.jinja").write_text(text, "utf-8")
    data = write_rows(folder / "rows.jsonl", rows)

    def check(_: str) -> str:
        made = _by_row(out)
        expected = {number: written(text, rows[number - 1]) for number in made}
        return _differing({number: each["prompt"] for number, each in made.items()}, expected)

    args = ["--model", str(model), "--task", str(data), "task.apply_chat_template=true"]
    return _case(f"right chat template: {text[:300]}", args, out, check)


def _case(name: str, args: list[str], out: Path, check: Callable[[str], str]) -> Case:
    small = ["task.test_examples=2", "task.dev_examples=2"]
    every = ["train", *args, "--method", "zero-shot", "--output-dir", str(out), *FEW, *small]
    return Case(name, every, ("task.",), out, "accepted", check)


def _by_row(out: Path) -> dict[int, dict[str, Any]]:
    """{number of the row, as its id ends: its line of the run's predictions}"""
    lines = [json.loads(line) for line in (out / "eval/predictions-theta.jsonl").read_text("utf-8").splitlines()]
    return {int(line["id"].replace(":", "/").rpartition("/")[2]): line for line in lines}


def _differing(made: dict[int, str], expected: dict[int, str]) -> str:
    odd = next((number for number in expected if made[number] != expected[number]), None)
    return "" if odd is None else f"row {odd} came out as {made[odd]!r}, in plain Jinja as {expected[odd]!r}"


def _losses(world: World, folder: Path, rows: Path) -> dict[str, float]:
    """{text: its loss} of own files, by an evaluation."""
    output = folder / "plain.jsonl"
    shown = io.StringIO()
    args = ["eval", str(world.model), "--task", str(rows), "task.choices=[a,b]", "--output", str(output)]
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        code = cli.run(args)
    assert code == 0, shown.getvalue()
    return {row["prompt"]: row["loss"] for row in read_rows(output)}
