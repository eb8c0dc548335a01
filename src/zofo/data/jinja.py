"""Jinja run under bounds, and as task files use it: undefined names are errors, three filters for what YAML cannot say.

A template of somebody else's can do no more than write a text: what it repeats, joins and makes, and how long it goes
on, is counted for one rendering (`Budget`).
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import jinja2
import regex  # a requirement of transformers; Python's own `re` cannot be stopped
from jinja2 import nodes
from jinja2.runtime import Context
from jinja2.sandbox import SandboxedEnvironment
from jinja2.visitor import NodeTransformer

MOST = 1_000_000  # characters of a text that is repeated or widened at once, and rounds of one template's loops
WRITTEN = 10_000_000  # characters of one rendering, and of a text that is joined
MADE = 50_000_000  # characters, and items of lists, of all that its operators, filters and calls return
REPEATED = 200_000_000  # characters of the template itself that its rounds may write again
WORK = 100_000_000  # of one call: the product of the two largest sizes that it is given
SECONDS = 10  # of one rendering
SEARCHED = 5  # seconds for a regular expression: some take longer than the universe has existed
WIDTH = re.compile(r"\d{7,}")  # in a format, of a million and more
WIDE = ("center", "indent", "format", "batch", "slice")  # filters that are given a width


class TooMuchError(ValueError):
    """What a template asks for is beyond any use."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the template {what}; mend it")


@dataclass
class Budget:
    """What is left to the rendering in progress."""

    rounds: int = MOST
    written: int = WRITTEN
    made: int = MADE
    until: float = field(default_factory=lambda: time.thread_time() + SECONDS)  # a busy machine refuses no more

    def round(self, source: int = 0) -> None:
        """One round of a loop, or one call. source: characters of the template that it may write again."""
        self.rounds -= 1 + source * MOST // REPEATED
        if self.rounds < 0:
            raise TooMuchError("goes round its loops too often")
        if time.thread_time() > self.until:
            raise TooMuchError(f"takes more than {SECONDS} seconds")

    def write(self, value: Any) -> None:
        self.written -= len(value) if isinstance(value, str) else 1
        if self.written < 0:
            raise TooMuchError(f"writes more than {WRITTEN} characters")

    def make(self, value: Any) -> Any:
        self.made -= _size(value)
        if self.made < 0:
            raise TooMuchError(f"makes texts and lists of more than {MADE} characters and items in all")
        return value


budget: ContextVar[Budget | None] = ContextVar("budget", default=None)  # of the rendering in progress


@contextmanager
def counting() -> Iterator[None]:
    """Around one rendering: raises TooMuchError past the bounds."""
    token = budget.set(Budget())
    try:
        yield
    finally:
        budget.reset(token)


def _made(value: Any) -> Any:
    return left.make(value) if (left := budget.get()) else value


def _written(value: Any) -> Any:
    if left := budget.get():
        left.write(value)
    return value


class _Counted(NodeTransformer):
    """Every loop counts its rounds, every macro its calls, and `a ~ b`, which passes every check of an operator, is a
    call."""

    def __init__(self, source: int) -> None:
        self.source = nodes.Const(source)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Call:
        self.generic_visit(node)
        return nodes.Call(nodes.EnvironmentAttribute("joined"), node.nodes, [], None, None, lineno=node.lineno)

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = nodes.Call(nodes.EnvironmentAttribute("counted"), [node.iter, self.source], [], None, None)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:
        self.generic_visit(node)
        call = nodes.Call(nodes.EnvironmentAttribute("entered"), [self.source], [], None, None, lineno=node.lineno)
        node.body.insert(0, nodes.ExprStmt(call, lineno=node.lineno))
        return node


class Bounded(SandboxedEnvironment):
    """Counts while there is a budget."""

    intercepted_binops = frozenset(["*", "**", "%", "+"])

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.finalize = _written
        self.globals.pop("lipsum", None)  # a text of any length

    def bound_filters(self) -> None:
        """Before the first template is compiled, and after the last filter was added."""
        self.filters = {name: _sized(name, do) for name, do in self.filters.items()}

    # What `parse` and `compile` both go through; an extension sees tokens alone
    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _Counted(len(source)).visit(super()._parse(source, name, filename))

    def entered(self, source: int) -> None:
        if left := budget.get():
            left.round(source)

    def counted(self, items: Iterable[Any], source: int) -> Iterator[Any]:
        for item in items:
            self.entered(source)
            yield item

    def joined(self, *parts: Any) -> str:
        texts = [str(part) for part in parts]
        if sum(map(len, texts)) > WRITTEN:
            raise TooMuchError(f"joins a text of more than {WRITTEN} characters")
        return _made("".join(texts))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            for one, times in ((left, right), (right, left)):
                if isinstance(one, (str, bytes, list, tuple)) and isinstance(times, int) and len(one) * times > MOST:
                    raise TooMuchError("repeats a text more than a million characters long")
        if operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            if bits > 100_000:
                raise TooMuchError("computes a number of more than 30000 digits")
        if operator == "%" and isinstance(left, str):
            if WIDTH.search(left) or "*" in left:
                raise TooMuchError("formats a text wider than a million characters")
            _check((left, *right) if isinstance(right, tuple) else (left, right))
        if operator == "+" and isinstance(left, (str, list, tuple)) and len(left) + _size(right) > WRITTEN:
            raise TooMuchError(f"joins a text of more than {WRITTEN} characters")
        return _made(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(__obj, "__self__", getattr(getattr(__obj, "__wrapped__", None), "__self__", None))
        if isinstance(owner, str):
            wide = any(isinstance(n, int) and n > MOST for n in (*args, *kwargs.values()))
            if wide or (getattr(__obj, "__name__", "").startswith("format") and WIDTH.search(owner)):
                raise TooMuchError("writes a text wider than a million characters")
        if left := budget.get():
            left.round()
            if isinstance(owner, (list, dict, set)):  # it may keep what it is given
                left.make(args)
        _check((owner, *args, *kwargs.values()))
        return _made(super().call(__context, __obj, *args, **kwargs))


def _size(value: Any) -> int:
    """Characters of a text; of a list its items and the sizes of those; of what else has a length, that."""
    if isinstance(value, (list, tuple)):
        return len(value) + sum(len(item) for item in value if isinstance(item, (str, list, tuple, dict, range)))
    return len(value) if isinstance(value, (str, bytes, dict, set, range)) else 0


def _check(values: Sequence[Any]) -> None:
    """Raises TooMuchError where a call could make of these what no memory holds: replace, join, a wide indent."""
    sizes = sorted(_size(value) for value in values)
    wide = [n for n in values if isinstance(n, int) and not isinstance(n, bool) and n > MOST]
    if sizes and (sizes[-1] > WRITTEN or (len(sizes) > 1 and sizes[-1] * sizes[-2] > WORK) or (wide and sizes[-1] > 0)):
        raise TooMuchError("asks for a text of more than a million characters")


def _sized(name: str, do: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(do)  # with what jinja2 marks a filter that takes the context by
    def sized(*args: Any, **kwargs: Any) -> Any:
        if left := budget.get():
            left.round()
        given = (*args, *kwargs.values())
        if name in WIDE and any(isinstance(n, int) and n > MOST for n in given):
            raise TooMuchError(f"gives {name} a width of more than a million")
        if name == "format" and WIDTH.search(str(args[0])):
            raise TooMuchError("formats a text wider than a million characters")
        if name != "default":
            _check(given)
        return _made(do(*args, **kwargs))

    return sized


# --------------------------------------------------------------------------------------------------------- task files

ENV = Bounded(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)


def resub(text: Any, pattern: str, replacement: str = "") -> str:
    """`"A)$61" | resub("^[A-E]\\\\)")`: every match of the regular expression, replaced."""
    try:
        return regex.sub(pattern, replacement, str(text), timeout=SEARCHED)
    except TimeoutError:
        raise TooMuchError(f'searches for "{pattern}" more than {SEARCHED} seconds in a text') from None


def into(value: Any, text: str, gap: str) -> str:
    """`entities | map("into", query, "@placeholder") | list`: the text with its gap filled by each value."""
    return str(text).replace(gap, str(value))


def start_lower(text: str) -> str:
    """The first letter in lower case, unless the text starts with the word I."""
    return text if re.match(r"I\b", text) else text[:1].lower() + text[1:]


def letters(options: Sequence[Any]) -> list[str]:
    """A, B, C, ... : as many as there are options."""
    return [chr(ord("A") + i) for i in range(len(options))]


ENV.filters |= {"resub": resub, "into": into, "start_lower": start_lower, "letters": letters}
ENV.bound_filters()
