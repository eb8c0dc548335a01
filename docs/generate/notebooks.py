"""A notebook as a page: its text, its code, and nothing that was printed."""

from __future__ import annotations

import json
from typing import Any

FOLDER = "examples/notebooks"


def page_name(stem: str) -> str:
    return f"notebook_{stem}.md"


def text_of(cell: dict[str, Any]) -> str:
    """nbformat has a cell's source as a text or as lines."""
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def page(source: str, text: str) -> str:
    """source: where the notebook is, for its reader."""
    cells = json.loads(text)["cells"]
    parts = [text_of(c) if c["cell_type"] == "markdown" else f"```python\n{text_of(c)}\n```" for c in cells]
    where = f"A notebook: `{source}` runs from top to bottom on a CPU."
    return "\n\n".join([parts[0], where, *parts[1:]]) + "\n"
