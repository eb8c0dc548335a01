"""A chat template is the model's program: one that goes on for ever, or writes without end, is refused in time."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests import chat_templates
from tests.conftest import CHAT_TEMPLATE, sentiment_rows, write_rows
from zofo import InputError, evaluate, finetune, generate
from zofo.data import jinja
from zofo.data.chat_template import render

DOUBLE = "{% set ns = namespace(x='aaaaaaaaaa') %}{% for i in range(60) %}{% set ns.x = EXPR %}{% endfor %}"
HOSTILE = {
    "a range": "{% for i in range(10**9) %}a{% endfor %}",
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "quiet loops": "{% for i in range(99999) %}{% for j in range(99999) if j < 0 %}{% endfor %}{% endfor %}",
    "loops within macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a recursive loop": "{% for i in [1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
    "repetition": "{{ 'a' * 10**9 }}",
    "repeated lists": "{{ ([0] * 10**9) | length }}",
    "a power": "{{ 9 ** (9 ** 9) }}",
    "doubled by ~": DOUBLE.replace("EXPR", "ns.x ~ ns.x"),
    "doubled by +": DOUBLE.replace("EXPR", "ns.x + ns.x"),
    "doubled by join": DOUBLE.replace("EXPR", "[ns.x, ns.x] | join"),
    "doubled by format": DOUBLE.replace("EXPR", "'{}{}'.format(ns.x, ns.x)"),
    "squared by replace": DOUBLE.replace("EXPR", "ns.x.replace('a', ns.x)"),
    "squared by a filter": DOUBLE.replace("EXPR", "ns.x | replace('a', ns.x)"),
    "squared by join": DOUBLE.replace("EXPR", "ns.x.join(ns.x)"),
    "wide": "{{ '%1000000000d' % 1 }}",
    "wide by format": "{{ '{:>1000000000}'.format(1) }}",
    "centered": "{{ 'a' | center(10**9) }}",
    "adjusted": "{{ 'a'.ljust(10**9) }}",
    "indented": "{{ 'a\\na' | indent(10**9) }}",
    "indented JSON": "{{ messages | tojson(indent=10**9) }}",
    "much output": "{% set x = 'a' * 999999 %}{% for i in range(99999) %}{{ x }}{% endfor %}",
    "much of its own text": "{% for i in range(99999) %}" + "a" * 50_000 + "{% endfor %}",
    "a list that grows": DOUBLE.replace("'aaaaaaaaaa'", "[1]").replace("EXPR", "ns.x + ns.x"),
    "deep": "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}",
    "an attribute of Python's": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "changes the messages": "{% for m in messages %}{{ messages.append(m) }}{% endfor %}",
    "lorem ipsum": "{{ lipsum(n=10**8) }}",
    "cycles": "{% for i in range(9999) %}{% set c = cycler(*range(99999)) %}{% endfor %}",
}
TIMED = ("loops within macros", "cycles")  # nothing but the clock ends them
TURNS = [{"role": "user", "content": "a film"}, {"role": "assistant", "content": "great"}]


@pytest.mark.parametrize("how", HOSTILE)
def test_it_is_ended(how: str, tokenizer_factory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jinja, "SECONDS", 0.5 if how in TIMED else 2)
    tokenizer = tokenizer_factory()
    tokenizer.chat_template = HOSTILE[how]
    begun = time.monotonic()
    with pytest.raises(Exception) as caught:  # noqa: PT011 (whatever it is, its callers make one line of it)
        render(tokenizer, TURNS)
    assert not isinstance(caught.value, MemoryError)
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("how", ["nested loops", "doubled by ~", "much output"])
def test_verbs_say_so_in_a_line(how: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model_dir, tmp_path / "model")
    (model / "chat_template.jinja").write_text(HOSTILE[how])
    rows = write_rows(tmp_path / "rows.jsonl", sentiment_rows(24))
    said = "the model's chat template refuses these messages: the template"
    options: dict[str, Any] = {"max_steps": 2, "batch_size": 2, "overrides": ["task.apply_chat_template=true"]}
    with pytest.raises(InputError, match=said):
        finetune(str(model), str(rows), "mezo", output_dir=tmp_path / "out", **options)
    with pytest.raises(InputError, match=said):
        evaluate(model, task=str(rows), apply_chat_template=True)
    with pytest.raises(InputError, match=said):
        generate(model, ["a film"], chat=True)
    assert not (tmp_path / "out").exists()


def texts() -> dict[str, str]:
    names = [name for name, value in vars(chat_templates).items() if name.isupper() and "{%" in value]
    return {"plain": CHAT_TEMPLATE} | {name: vars(chat_templates)[name] for name in names}


@pytest.mark.parametrize("name", texts())
def test_real_templates_write_what_transformers_writes(name: str, tokenizer_factory: Any) -> None:
    tokenizer, bounded = tokenizer_factory(), tokenizer_factory()
    tokenizer.chat_template = texts()[name] + "{# once more #}"  # compiled apart
    bounded.chat_template = texts()[name]
    for turns in (TURNS, TURNS * 40, [*TURNS, {"role": "user", "content": "a " * 100_000}]):
        for prompt in (True, False):
            expected = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt)
            assert render(bounded, turns, add_generation_prompt=prompt) == expected
            assert expected


def test_what_is_compiled_here_counts_nowhere_else(tokenizer_factory: Any) -> None:
    tokenizer = tokenizer_factory()
    tokenizer.chat_template = "{% for m in range(90000) %}{% endfor %}{% for m in range(90000) %}a{% endfor %}"
    assert len(render(tokenizer, TURNS)) == 90_000
    for _ in range(12):
        assert len(tokenizer.apply_chat_template(TURNS, tokenize=False)) == 90_000
