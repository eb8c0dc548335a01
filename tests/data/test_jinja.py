"""Somebody else's template writes a text and no more: what it repeats and how long it goes on is bounded."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import jinja2.meta
import pytest

from zofo.data import jinja
from zofo.data.jinja import ENV, TooMuchError, counting

ENDLESS = [
    "{{ 'a' * 10 ** 9 }}",
    "{{ 10 ** 9 * 'a' }}",
    "{{ [1] * 10 ** 9 }}",
    "{{ 9 ** (9 ** 9) }}",
    "{{ '%0100000000d' % 7 }}",
    "{{ '%*d' % (100000000, 7) }}",
    "{{ '%0100000000d' | format(7) }}",
    "{{ '{:>100000000}'.format('a') }}",
    "{{ 'a'.center(10 ** 9) }}",
    "{{ 'a'.zfill(width=10 ** 9) }}",
    "{{ 'a' | center(10 ** 9) }}",
    "{{ 'a' | indent(10 ** 9) }}",
    "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
    "{% for i in rows recursive %}{{ loop(rows) }}{% endfor %}",
    "{{ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!' | resub('(a|aa)+$') }}",
]


@pytest.mark.parametrize("source", ENDLESS)
def test_what_has_no_end(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jinja, "SEARCHED", 0.2)
    start = time.monotonic()
    with counting(), pytest.raises((TooMuchError, RecursionError, TypeError)):
        ENV.from_string(source).render(rows=[1, 2, 3])
    assert time.monotonic() - start < 60, "seconds, and minutes on a machine that is busy"


GROWS = "{% set ns = namespace(x='aaaaaaaaaa', l=[]) %}{% for i in range(9999) %}{% set ns.x = EXPR %}{% endfor %}"
KEEPS = "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = EXPR %}{% endfor %}"
GROWING = {
    "doubled by ~": GROWS.replace("EXPR", "ns.x ~ ns.x"),
    "doubled by +": GROWS.replace("EXPR", "ns.x + ns.x"),
    "doubled by join": GROWS.replace("EXPR", "[ns.x, ns.x] | join"),
    "doubled by format": GROWS.replace("EXPR", "'{}{}'.format(ns.x, ns.x)"),
    "doubled by %": GROWS.replace("EXPR", "'%s%s' % (ns.x, ns.x)"),
    "doubled by a set block": GROWS.replace("{% set ns.x = EXPR %}", "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}"),
    "squared by replace": GROWS.replace("EXPR", "ns.x.replace('a', ns.x)"),
    "squared by a filter": GROWS.replace("EXPR", "ns.x | replace('a', ns.x)"),
    "squared by resub": GROWS.replace("EXPR", "ns.x | resub('a', ns.x)"),
    "squared by into": GROWS.replace("EXPR", "ns.x | into(ns.x, 'a')"),
    "long texts kept": KEEPS.replace("EXPR", "ns.l + ['a' * 999999]"),
    "long texts joined and kept": KEEPS.replace("EXPR", "ns.l + ['a' * 999999 ~ i]"),
    "long lists kept": KEEPS.replace("EXPR", "ns.l + [[0] * 999999]"),
    "appended": "{% set l = [] %}{% for i in range(99999) %}{{ l.append('a' * 99999) or '' }}{% endfor %}",
    "extended": "{% set l = [] %}{% for i in range(99999) %}{{ l.extend(range(99999)) or '' }}{% endfor %}",
    "extended by itself": "{% set l = [0] %}{% for i in range(99) %}{{ l.extend(l) or '' }}{% endfor %}",
    "much written": "{% set x = 'a' * 999999 %}{% for i in range(99999) %}{{ x }}{% endfor %}",
    "much of its own text": "{% for i in range(99999) %}" + "a" * 50_000 + "{% endfor %}",
    "its own text by a macro": "{% macro f() %}" + "a" * 9_000 + "{% endmacro %}" + GROWS.replace("EXPR", "f()") * 4,
    "macros twice": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
}


@pytest.mark.parametrize("how", GROWING)
def test_what_grows(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time and memory both: the most that is made is some ten million characters at once."""
    monkeypatch.setattr(jinja, "SECONDS", 0.5 if how == "macros twice" else 2)  # the clock alone ends it
    template = ENV.from_string(GROWING[how])
    start = time.monotonic()
    tracemalloc.start()
    try:
        with counting(), pytest.raises(TooMuchError, match=r"the template .*; mend it"):
            template.render(rows=[1, 2, 3])
        assert tracemalloc.get_traced_memory()[1] < 600_000_000
    finally:
        tracemalloc.stop()
    assert time.monotonic() - start < 60


def test_a_long_template_shortens_no_other_one() -> None:
    ENV.from_string("a" * 2_000_000)
    with counting():
        assert ENV.from_string("{% for i in range(99999) %}{% endfor %}x").render() == "x"


RIGHT = [
    ("{{ 'a' ~ 1 ~ none }}{{ ['a'] + ['b'] }}{{ 'a' + 'b' }}{{ 1 + 2.5 }}", "a1None['a', 'b']ab3.5"),
    ("{% set x %}{% for o in rows %}{{ o ~ ';' }}{% endfor %}{% endset %}{{ x | length }} {{ x }}", "6 1;2;3;"),
    ("{% macro f(a, b=2) %}{{ a ~ b }}{{ caller() }}{% endmacro %}{% call f(1) %}!{% endcall %}", "12!"),
    ("{% set l = [] %}{% for o in rows %}{% if l.append(o * 2) %}{% endif %}{% endfor %}{{ l | sum }}", "12"),
    ("{{ rows | map('string') | map('into', 'a_', '_') | list | join(' ') }}", "a1 a2 a3"),
    ("{{ nothing | default(10000000) }} {{ 'x' | default('y') }}", "10000000 x"),
    (
        "{% for o in rows %}{{ loop.index0 }}{{ o }}{{ ' ' if loop.last else ',' }}{% else %}none{% endfor %}",
        "01,12,23 ",
    ),
    ("{% for o in [] %}{{ o }}{% else %}none{% endfor %}", "none"),
    ("{% for a, b in {'u': 1}.items() %}{{ a }}{{ b }}{% endfor %}", "u1"),
    ("{% for o in rows if o > 1 %}{{ o }}/{{ loop.length }} {% endfor %}", "2/2 3/2 "),
    ("{{ '=' * 3 }}{{ 2 ** 10 }}{{ 7 % 4 }}{{ 3 * 4 }}", "===1024312"),
    ("{{ '%05.2f' % 3.14159 }} {{ '{:>4}'.format('a') }} {{ 'a'.center(5) }}|", "03.14    a   a  |"),
    ("{{ 'a\nb' | indent(2) }} {{ 'A)$61' | resub('^[A-E]\\\\)') }} {{ rows | join('-') }}", "a\n  b $61 1-2-3"),
]


@pytest.mark.parametrize(("source", "text"), RIGHT)
def test_what_is_right(source: str, text: str) -> None:
    with counting():
        assert ENV.from_string(source).render(rows=[1, 2, 3]) == text


def test_the_bound_is_one_renderings() -> None:
    template: Any = ENV.from_string("{% for i in range(90000) %}{% endfor %}x")
    for _ in range(12):
        with counting():
            assert template.render() == "x"
    with counting():
        for _ in range(11):
            template.render()
        with pytest.raises(TooMuchError):
            template.render()
    assert template.render() == "x", "where nobody counts"


def test_loops_read_the_same_columns() -> None:
    found = jinja2.meta.find_undeclared_variables(ENV.parse("{% for a in x %}{{ b }}{% endfor %}"))
    assert found == {"x", "b"}
