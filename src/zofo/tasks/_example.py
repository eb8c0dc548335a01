"""What a task hands over: examples, and three lists of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from zofo.errors import InputError


@dataclass(frozen=True)
class Example:
    """`gold`: indices of the right `answers`. A completion is an example with one answer."""

    id: str  # where it is from: "sst2/train/17", "rows.jsonl:17"
    prompt: str
    answers: tuple[str, ...]
    gold: tuple[int, ...]


@dataclass(frozen=True)
class TaskData:
    name: str
    version: int
    objective: Literal["options", "lm"]
    metric: str
    train: list[Example]
    dev: list[Example]
    test: list[Example]
    labels: tuple[str, ...]  # names of the options where all examples share them, else empty


def split_levels(
    train: Sequence[Example], seed: int, ratio: tuple[float, float] = (1, 2)
) -> tuple[list[Example], list[Example]]:
    """(D_f, D_p): the upper and the lower level's training data, a random split fixed by the seed (SPEC 3.11)."""
    if len(train) < 2:
        raise InputError(f"two levels need at least 2 training examples, got {len(train)}")
    order = list(train)
    random.Random(f"{seed}/levels").shuffle(order)
    upper = round(len(order) * ratio[0] / sum(ratio))
    upper = min(max(upper, 1), len(order) - 1)
    return order[:upper], order[upper:]
