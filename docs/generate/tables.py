"""Markdown that several generated pages write."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence


def cell(text: object) -> str:
    """One line that a table's cell can hold, with `...` in it left as code."""
    line = " ".join(str(text).split())
    spans = re.split(r"(`[^`]*`)", line)
    plain = (s if s.startswith("`") else html.escape(s, quote=False).replace("*", r"\*") for s in spans)
    return "".join(plain).replace("|", r"\|")


def code(text: object) -> str:
    """The same as code; "" stays empty."""
    line = " ".join(str(text).split())
    return f"`{line}`".replace("|", r"\|") if line else ""


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The cells as they are: `cell` or `code` made them."""
    lines = ["| " + " | ".join(row) + " |" for row in [columns, ["---"] * len(columns), *rows]]
    return "\n".join(lines) + "\n"
