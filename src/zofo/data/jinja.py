"""Jinja as task files use it: sandboxed, undefined names are errors, and three filters for what YAML cannot say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jinja2
from jinja2.sandbox import SandboxedEnvironment

ENV = SandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)


def resub(text: Any, pattern: str, replacement: str = "") -> str:
    """`"A)$61" | resub("^[A-E]\\)")`: every match of the regular expression, replaced."""
    return re.sub(pattern, replacement, str(text))


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
