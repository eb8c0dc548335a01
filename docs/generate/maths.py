"""`python docs/generate/maths.py DIRECTORY`: each `$$` block of its pages as MathML, which browsers draw by themselves.

So that a page asks no server for a script. Run in the site's environment: zofo's has no latex2mathml.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

_BLOCK = re.compile(r"^\$\$\n(.*?)\n\$\$$", re.S | re.M)


def drawn(text: str, convert: Callable[..., str]) -> tuple[str, int]:
    """The page with its blocks as MathML, and how many they were. convert: latex2mathml's."""

    def block(found: re.Match[str]) -> str:
        return f'<div class="maths">{convert(" ".join(found[1].split()), display="block")}</div>'

    return _BLOCK.subn(block, text)


if __name__ == "__main__":
    from latex2mathml.converter import convert  # pyright: ignore[reportMissingImports]

    blocks = 0
    for page in sorted(Path(sys.argv[1]).rglob("*.md")):
        text, number = drawn(page.read_text("utf-8"), convert)
        if number:
            page.write_text(text, "utf-8")
        blocks += number
    print(f"{blocks} equations")
