"""Jinja as task files use it: sandboxed, undefined names are errors, and three filters for what YAML cannot say.

A template of somebody else's can do no more than write a text: what it repeats, and how long it goes on, is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jinja2
import regex  # a requirement of transformers; Python's own `re` cannot be stopped
from jinja2 import nodes
from jinja2.runtime import Context
from jinja2.sandbox import SandboxedEnvironment

MOST = 1_000_000  # characters of a text that is written at once, and rounds of one template's loops
SECONDS = 5  # for a regular expression: some take longer than the universe has existed
WIDTH = re.compile(r"\d{7,}")  # in a format, of a million and more


class TooMuchError(ValueError):
    """What a template asks for is beyond any use."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the template {what}; mend it")


class Bounded(SandboxedEnvironment):
    """rounds: of loops that are left to the rendering in progress; `fresh` before each."""

    intercepted_binops = frozenset(["*", "**", "%"])
    rounds = MOST

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            for one, times in ((left, right), (right, left)):
                if isinstance(one, (str, bytes, list, tuple)) and isinstance(times, int) and len(one) * times > MOST:
                    raise TooMuchError("repeats a text more than a million characters long")
        if operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            if bits > 100_000:
                raise TooMuchError("computes a number of more than 30000 digits")
        if operator == "%" and isinstance(left, str) and (WIDTH.search(left) or "*" in left):
            raise TooMuchError("formats a text wider than a million characters")
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        text = getattr(__obj, "__self__", getattr(getattr(__obj, "__wrapped__", None), "__self__", None))
        if isinstance(text, str):
            wide = any(isinstance(n, int) and n > MOST for n in (*args, *kwargs.values()))
            if wide or (getattr(__obj, "__name__", "").startswith("format") and WIDTH.search(text)):
                raise TooMuchError("writes a text wider than a million characters")
        return super().call(__context, __obj, *args, **kwargs)

    def fresh(self) -> None:
        self.rounds = MOST

    def counted(self, items: Iterable[Any]) -> Iterator[Any]:
        """The items of a loop, as long as there are rounds left."""
        for item in items:
            self.rounds -= 1
            if self.rounds < 0:
                raise TooMuchError("goes round its loops more than a million times")
            yield item

    # What `parse` and `compile` both go through; an extension sees tokens alone
    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Every `for` counts its rounds."""
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Call(nodes.EnvironmentAttribute("counted"), [loop.iter], [], None, None)
        return tree


ENV = Bounded(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)


def resub(text: Any, pattern: str, replacement: str = "") -> str:
    """`"A)$61" | resub("^[A-E]\\\\)")`: every match of the regular expression, replaced."""
    try:
        return regex.sub(pattern, replacement, str(text), timeout=SECONDS)
    except TimeoutError:
        raise TooMuchError(f'searches for "{pattern}" more than {SECONDS} seconds in a text') from None


def into(value: Any, text: str, gap: str) -> str:
    """`entities | map("into", query, "@placeholder") | list`: the text with its gap filled by each value."""
    return str(text).replace(gap, str(value))


def start_lower(text: str) -> str:
    """The first letter in lower case, unless the text starts with the word I."""
    return text if re.match(r"I\b", text) else text[:1].lower() + text[1:]


def letters(options: Sequence[Any]) -> list[str]:
    """A, B, C, ... : as many as there are options."""
    return [chr(ord("A") + i) for i in range(len(options))]


def _narrow(name: str) -> Callable[..., Any]:
    """jinja2's own filter, for widths that a text can have."""
    plain = ENV.filters[name]

    def narrow(*args: Any, **kwargs: Any) -> Any:
        if any(isinstance(n, int) and n > MOST for n in (*args, *kwargs.values())):
            raise TooMuchError(f"gives {name} a width of more than a million")
        if name == "format" and WIDTH.search(str(args[0])):
            raise TooMuchError("formats a text wider than a million characters")
        return plain(*args, **kwargs)

    return narrow


ENV.filters |= {name: _narrow(name) for name in ("center", "indent", "format", "batch", "slice")}
ENV.filters |= {"resub": resub, "into": into, "start_lower": start_lower, "letters": letters}
del ENV.globals["lipsum"]
