"""What runs of eight counted steps are called with, on a model and rows of conftest's."""

from __future__ import annotations

from typing import Any

SMALL: dict[str, Any] = {"max_steps": 8, "batch_size": 4, "eval_steps": 4, "save_steps": 4, "logging_steps": 2}
METHODS: dict[str, dict[str, Any]] = {
    "zero-shot": {"name": "zero-shot"},
    "fo-peft": {"name": "fo-peft"},
    "mezo": {"name": "mezo"},
    "bilevel-zofo": {"name": "bilevel-zofo", "inner_steps": 1},
}
