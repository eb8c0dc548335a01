"""Somebody else's template writes a text and no more: what it repeats and how long it goes on is bounded."""

from __future__ import annotations

import time
from typing import Any

import jinja2.meta
import pytest

from zofo.data import jinja
from zofo.data.jinja import ENV, TooMuchError

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
    monkeypatch.setattr(jinja, "SECONDS", 1)
    ENV.fresh()
    start = time.monotonic()
    with pytest.raises((TooMuchError, RecursionError, TypeError)):
        ENV.from_string(source).render(rows=[1, 2, 3])
    assert time.monotonic() - start < 60, "seconds, and minutes on a machine that is busy"


RIGHT = [
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
    ENV.fresh()
    assert ENV.from_string(source).render(rows=[1, 2, 3]) == text


def test_the_bound_is_one_renderings(monkeypatch: pytest.MonkeyPatch) -> None:
    template: Any = ENV.from_string("{% for i in range(90000) %}{% endfor %}x")
    for _ in range(30):
        ENV.fresh()
        assert template.render() == "x"
    ENV.fresh()
    for _ in range(11):
        template.render()
    with pytest.raises(TooMuchError):
        template.render()
    ENV.fresh()


def test_loops_read_the_same_columns() -> None:
    found = jinja2.meta.find_undeclared_variables(ENV.parse("{% for a in x %}{{ b }}{% endfor %}"))
    assert found == {"x", "b"}
