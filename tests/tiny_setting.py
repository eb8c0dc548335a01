"""A setting of five tiny tasks: their rows, and a directory with their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.conftest import write_rows
from zofo.data.multitask.setting import Setting

WORDS = {"fruit": ("pear", "plum"), "tools": ("saw", "plane"), "birds": ("wren", "crow"), "fish": ("eel", "carp")}
OURS = Setting("ours", ("fruit", "tools", "sums"), ("birds", "fish"), ("fish",), file="ours.yaml")


def rows_of(task: str, n: int, start: int = 0) -> list[dict[str, Any]]:
    numbers = range(start, start + n)
    if task == "sums":
        return [{"task": task, "input": f"{i} and {i}?", "output": str(2 * i), "options": []} for i in numbers]
    words = list(WORDS[task])
    return [{"task": task, "input": f"Item {i} is what?", "output": words[i % 2], "options": words} for i in numbers]


def write_ours(root: Path) -> Path:
    """A directory with all tasks of OURS: 20 train rows and, but for tools and sums, 10 test rows."""
    for task in ("fruit", "tools", "sums", "birds", "fish"):
        write_rows(root / task / "train.jsonl", rows_of(task, 20))
        if task not in ("tools", "sums"):
            write_rows(root / task / "test.jsonl", rows_of(task, 10, 100))
    return root
