"""Where the end of an answer is learnt and scored: of what is written, and not of what is chosen."""

from __future__ import annotations

from typing import Any

import pytest

from zofo.data.example import TaskData


@pytest.mark.parametrize(
    ("kind", "objective", "ends", "encodes"),
    [
        ("options", "options", False, "options"),
        ("options", "lm", False, "gold"),
        ("completion", "lm", True, "gold"),
        ("generation", "lm", True, "gold"),
    ],
)
def test_ends_and_encodes(kind: Any, objective: str, ends: bool, encodes: str) -> None:
    data = TaskData("rows", 1, objective, ("loss",), [], [], [], (), kind)
    assert (data.ends, data.encodes) == (ends, encodes)
