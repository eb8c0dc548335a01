"""Rows of three kinds of tasks, and a directory of a task's plain files, which a pool reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.conftest import write_rows
from zofo.data.multitask.pool import Pool, open_pool

TOPICS = ["garden", "kitchen", "workshop"]


def topic(i: int, task: str = "home_topics", **changes: Any) -> dict[str, Any]:
    """A row of a task with three classes."""
    text = f"Note {i}: " + ("the beans want water", "the oven is warm", "the plane is blunt")[i % 3]
    return {"task": task, "input": text, "output": TOPICS[i % 3], "options": TOPICS, **changes}


def riddle(i: int) -> dict[str, Any]:
    """A row with options of its own."""
    options = [f"{i} pears", f"{i} plums"]
    return {"task": "riddles", "input": f"What weighs more, number {i}?", "output": options[i % 2], "options": options}


def free(i: int) -> dict[str, Any]:
    """A row without options."""
    return {"task": "sums", "input": f"What is {i} and {i}?", "output": str(2 * i), "options": []}


def plain(root: Path, name: str = "home_topics", **splits: list[Any]) -> Pool:
    """The pool of a directory with one file for each split."""
    for split, rows in splits.items():
        write_rows(root / name / f"{split}.jsonl", rows)
    return open_pool(root, name)
