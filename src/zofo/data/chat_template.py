"""A tokenizer's chat template, the model's own program, run under bounds: how often it goes round, what it writes.

transformers compiles it, as it always does, in an environment that counts.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from jinja2 import nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from zofo.data.jinja import MOST, Bounded, TooMuchError
from zofo.errors import RunError

SECONDS = 10  # of one conversation
WRITTEN = 10_000_000  # characters of one
REPEATED = 200_000_000  # characters of the template itself that its rounds may write again
WORK = 100_000_000  # of one call: the product of the two largest sizes that it is given
Turn = dict[str, Any]


@dataclass
class _Budget:
    """What is left to the rendering in progress."""

    rounds: int = MOST
    written: int = WRITTEN
    until: float = field(default_factory=lambda: time.monotonic() + SECONDS)

    def round(self, source: int) -> None:
        """One round of a loop, or one call. source: characters of the template."""
        self.rounds -= 1 + source * MOST // REPEATED
        if self.rounds < 0:
            raise TooMuchError("goes round its loops too often")
        if time.monotonic() > self.until:
            raise TooMuchError(f"takes more than {SECONDS} seconds")

    def write(self, value: Any) -> None:
        self.written -= len(value) if isinstance(value, str) else 1
        if self.written < 0:
            raise TooMuchError(f"writes more than {WRITTEN} characters")


_budget: ContextVar[_Budget | None] = ContextVar("budget", default=None)


class _Joins(NodeTransformer):
    """`a ~ b` joins texts past every check of an operator: as a call it is one that counts."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Call:
        self.generic_visit(node)
        return nodes.Call(nodes.EnvironmentAttribute("joined"), node.nodes, [], None, None, lineno=node.lineno)


class BoundedChat(Bounded, ImmutableSandboxedEnvironment):
    """Counts while `render` is at work, and is transformers' own environment otherwise."""

    intercepted_binops = frozenset(["*", "**", "%", "+"])
    source = 0  # characters

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.finalize = _written
        self.globals.pop("lipsum", None)  # a text of any length

    def from_string(self, source: Any, *args: Any, **options: Any) -> Any:
        self.source = len(source)
        self.filters = {name: _sized(do) for name, do in self.filters.items()}
        return super().from_string(source, *args, **options)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _Joins().visit(super()._parse(source, name, filename))

    def counted(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            if budget := _budget.get():
                budget.round(self.source)
            yield item

    def joined(self, *parts: Any) -> str:
        texts = [str(part) for part in parts]
        if sum(map(len, texts)) > MOST:
            raise TooMuchError("joins a text of more than a million characters")
        return "".join(texts)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and isinstance(left, (str, list, tuple)) and len(left) + _size(right) > MOST:
            raise TooMuchError("joins a text of more than a million characters")
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        if budget := _budget.get():
            budget.round(__self.source)
        _check((getattr(__obj, "__self__", None), *args, *kwargs.values()))
        return super().call(__context, __obj, *args, **kwargs)


def _size(value: Any) -> int:
    """Characters of a text, of all texts in a list; of a mapping, its length."""
    if isinstance(value, (list, tuple)):
        return len(value) + sum(len(item) for item in value if isinstance(item, (str, list, tuple, dict)))
    return len(value) if isinstance(value, (str, dict)) else 0


def _check(values: Sequence[Any]) -> None:
    """Raises TooMuchError where a call could make of these what no memory holds: replace, join, a wide indent."""
    sizes = sorted(_size(value) for value in values)
    wide = [n for n in values if isinstance(n, int) and not isinstance(n, bool) and n > MOST]
    if sizes[-1] > WRITTEN or (len(sizes) > 1 and sizes[-1] * sizes[-2] > WORK) or (wide and sizes[-1]):
        raise TooMuchError("asks for a text of more than a million characters")


def _sized(do: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(do)  # with what jinja2 marks a filter that takes the context by
    def sized(*args: Any, **kwargs: Any) -> Any:
        if budget := _budget.get():
            budget.round(0)
            _check((*args, *kwargs.values()))
        return do(*args, **kwargs)

    return sized


def _written(value: Any) -> Any:
    if budget := _budget.get():
        budget.write(value)
    return value


def render(tokenizer: Any, turns: Sequence[Turn], **options: Any) -> str:
    """`tokenizer.apply_chat_template` as a text. Raises whatever the template does, TooMuchError past its bounds."""
    from transformers.utils import chat_template_utils

    inside: Any = chat_template_utils
    if not hasattr(inside, "ImmutableSandboxedEnvironment"):
        raise RunError("this version of transformers runs chat templates elsewhere: take a tested one (zofo env)")
    plain, inside.ImmutableSandboxedEnvironment = inside.ImmutableSandboxedEnvironment, BoundedChat
    token = _budget.set(_Budget())
    try:
        return tokenizer.apply_chat_template(list(turns), tokenize=False, **options)
    finally:
        _budget.reset(token)
        inside.ImmutableSandboxedEnvironment = plain
