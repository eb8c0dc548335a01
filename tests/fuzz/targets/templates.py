"""Programs in templates: a tokenizer's chat template, a task's Jinja and its regular expressions, made up by chance.

None may take long, or much memory; what is refused is refused in a line, and what is accepted is measured. Every second
pair is right (`right_templates`), and comes out as in plain Jinja.
"""

from __future__ import annotations

import random
from pathlib import Path

from tests.conftest import write_rows
from tests.fuzz.case import Case
from tests.fuzz.targets import right_templates
from tests.fuzz.targets.configs import dump
from tests.fuzz.targets.task_files import OPTIONS
from tests.fuzz.world import FEW, World, copied

COUNT = 120
TEXTS = ["'a'", "'a' * 999", "ns.x", "ns.x", "TEXT", "'%9d' % 7", "'{}'", "'\\u202e'", "'\\ud800'", "''", "none", "1.5"]
NUMBERS = ["0", "3", "-1", "999", "99999", "10 ** 9", "2 ** 64", "true", "loop.index", "ns.l | length", "1 / 3", "0.0"]
LISTS = [
    "[]",
    "[1, 'b']",
    "ns.l",
    "range(99999)",
    "range(9)",
    "messages",
    "'abc' | list",
    "{'a': 1}.items()",
    "TEXT.split()",
]
FILTERS = [
    *(
        "upper",
        "trim",
        "length",
        "list",
        "sort",
        "unique",
        "join(T)",
        "replace(T, T)",
        "center(N)",
        "indent(N)",
        "title",
    ),
    *(
        "batch(N)",
        "slice(N)",
        "first",
        "last",
        "random",
        "reverse",
        "string",
        "int",
        "float",
        "abs",
        "tojson",
        "e",
        "safe",
    ),
    *("truncate(N)", "wordwrap(N)", "wordcount", "format(T)", "default(T)", "map('upper')", "select", "reject", "sum"),
    *("groupby('a')", "attr('__class__')", "xmlattr", "urlize", "pprint", "filesizeformat", "striptags", "min", "max"),
    *(
        "resub(R)",
        "resub(R, T)",
        "into(T, T)",
        "start_lower",
        "letters",
        "round(N)",
        "dictsort",
        "items",
        "map(attribute=T)",
    ),
]
METHODS = [
    *(
        "upper()",
        "strip(T)",
        "split(T)",
        "replace(T, T)",
        "format(T, T)",
        "ljust(N)",
        "zfill(N)",
        "join(L)",
        "encode()",
    ),
    *("center(N, T)", "__class__", "__init__.__globals__", "expandtabs(N)", "translate({97: T})", "splitlines()"),
    *(
        "startswith(T)",
        "count(T)",
        "append(T)",
        "extend(L)",
        "insert(N, T)",
        "update(L)",
        "__len__()",
        "format_map(ns)",
    ),
]
PATTERNS = [
    *(
        "'a'",
        "'(a+)+$'",
        "'(a|aa)+$'",
        "'('",
        "'a{1,99999}'",
        "'(?<n>a)\\\\1'",
        "'^|$'",
        "'.*'",
        "'[^b]*'",
        "'\\\\p{L}+'",
    ),
    *("'(?:(?:a*)*)*b'", "'(?R)'", "'a' * 9999", "'(a*)*\\\\1*'", "T"),
]
DEEP = 4


def _fill(rng: random.Random, text: str, depth: int) -> str:
    """T, N, L and R stand for a text, a number, a list and a pattern."""
    return "".join(
        _expression(rng, depth, letter) if letter in "TNLR" and not text[max(0, at - 1) : at].isalpha() else letter
        for at, letter in enumerate(text)
    )


def _expression(rng: random.Random, depth: int, kind: str = "T") -> str:
    if kind == "R":
        return rng.choice(PATTERNS[:-1])
    atoms = {"T": TEXTS, "N": NUMBERS, "L": LISTS}[kind]
    if depth <= 0 or rng.random() < 0.3:
        return rng.choice(atoms)
    inner = _expression(rng, depth - 1, kind)
    how = rng.randrange(7)
    if how == 0:
        return (
            f"({inner} {rng.choice(['~', '+', '*', '%', '-', '//', '**', 'in', '==', 'and'])} {_any(rng, depth - 1)})"
        )
    if how < 4:
        return f"({inner}) | {_fill(rng, rng.choice(FILTERS), depth - 2)}"
    if how == 4:
        return f"({inner}).{_fill(rng, rng.choice(METHODS), depth - 2)}"
    return (
        f"({inner} if {_any(rng, depth - 2)} else {_any(rng, depth - 2)})" if how == 5 else f"({inner})[{_any(rng, 0)}]"
    )


def _any(rng: random.Random, depth: int) -> str:
    return _expression(rng, depth, rng.choice("TTNL"))


def _statement(rng: random.Random, depth: int) -> str:
    how = rng.randrange(9) if depth > 0 else 0
    inner = "".join(_statement(rng, depth - 1) for _ in range(rng.randint(1, 2))) if depth > 0 else ""
    if how < 3:
        return "{{ " + _any(rng, DEEP) + " }}"
    if how == 3:
        return "{% set ns.x = " + _expression(rng, DEEP) + " %}"
    if how == 4:
        return "{% set ns.l = " + _expression(rng, DEEP, "L") + " %}"
    if how == 5:
        return "{% if " + _any(rng, 2) + " %}" + inner + "{% else %}b{% endif %}"
    if how == 6:
        recursive = rng.choice(["", "", "", " recursive"])
        return "{% for i in " + _expression(rng, 1, "L") + recursive + " %}" + inner + "{% endfor %}"
    if how == 7:
        return (
            "{% macro f(n=1) %}" + inner + rng.choice(["{{ f(n) }}", "{{ caller() }}", ""]) + "{% endmacro %}{{ f() }}"
        )
    return "{% set ns.x %}" + inner + "{{ ns.x }}{{ ns.x }}{% endset %}"


def program(rng: random.Random, text: str) -> str:
    """text: an expression for what is rendered."""
    body = "".join(_statement(rng, rng.randint(1, 3)) for _ in range(rng.randint(1, 4)))
    start = "{% set ns = namespace(x='aaaaaaaaaa', l=[1, 'b']) %}{% set messages = messages | default([]) %}"
    program = (start + body + "{{ TEXT }}").replace("TEXT", text)
    if rng.random() < 0.1:
        at = rng.randrange(len(program))
        program = program[:at] + rng.choice(["{{", "%}", "{%", "}}", "|", "(", "{#", "'"]) + program[at:]
    return program


def make(world: World, folder: Path, rng: random.Random, number: int) -> Case:
    if number % 4 > 1:
        return (right_templates.chat if number % 2 else right_templates.task)(world, folder, rng)
    out, small = folder / "out", ["task.test_examples=2", "task.dev_examples=2"]
    fixed = ["--method", "zero-shot", "--output-dir", str(out), *FEW, *small]
    if number % 2:
        model, text = copied(world.model, folder), program(rng, "messages[0]['content']")
        (model / "chat_template.jinja").write_text(text, "utf-8", errors="surrogatepass")
        args = ["train", "--model", str(model), "--task", str(world.rows), *fixed, "task.apply_chat_template=true"]
        names = ("chat template", "chat_template", "rows.jsonl", str(model), "task.")
        return Case(f"chat template: {text[150:400]}", args, names, out)
    text, path, rows = program(rng, "film"), folder / "films.yaml", folder / "rows.jsonl"
    path.write_text(
        dump({**OPTIONS, "templates": {"default": {"prompt": text, "answers": [" a", " b"]}}}),
        "utf-8",
        errors="replace",
    )
    write_rows(rows, [{"film": f"film {i}", "verdict": i % 2} for i in range(8)])
    args = ["train", "--model", str(world.model), "--task", str(path), "--data", str(rows), *fixed]
    return Case(f"task template: {text[100:400]}", args, ("films.yaml", "task.", "rows.jsonl"), out)
