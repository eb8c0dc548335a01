"""The fenced blocks of the pages, and what the pages themselves say of how a block is to be taken.

A comment on the line before a fence says it, where its language does not:

    <!-- not run: REASON -->      a block that cannot run here; it is counted
    <!-- saved as: PATH -->       the reader saves it under that name
    <!-- printed -->              the output of the commands before it
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

SHELL = ("sh", "bash", "console", "shell")
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *(path for folder in ("experiments", "benchmarks", "examples") for path in sorted((ROOT / folder).glob("*.md"))),
]
_FENCE = re.compile(r"(?:^<!-- ([^\n]*?) -->\n)?^```([^\n]*)\n(.*?)^```$", re.S | re.M)


@dataclass(frozen=True)
class Block:
    """note: "not run", "saved as", "printed" or "". said: what the comment says behind it."""

    page: str
    line: int
    language: str
    text: str
    note: str
    said: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    text, made = page.read_text("utf-8"), []
    for fence in _FENCE.finditer(text):
        note, _, said = (fence[1] or "").partition(": ")
        line = text.count("\n", 0, fence.start(2)) + 1
        made.append(Block(name_of(page), line, fence[2], fence[3], note, said))
    return made


def commands(text: str) -> list[str]:
    """The command lines of a shell block, continued lines joined."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
