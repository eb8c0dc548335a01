"""In-context learning: k answered examples before each prompt, and nothing is trained (Brown et al. 2020, section 2).

arXiv 2005.14165.

| symbol | field | default | place |
|---|---|---|---|
| k | task.num_fewshot | 4 | |
| the draw | task.fewshot | random: one for all | Brown et al. 2020, section 2.4 |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zofo.methods._base import Base


@dataclass(frozen=True)
class Config:
    """Nothing to set: the demonstrations are the task's (task.num_fewshot, task.fewshot)."""


def defaults(names: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    return {"task.num_fewshot": (4, "default: of method icl")}


class Method(Base):
    """No updates at all."""

    streams = ()
    first_order = False

    @classmethod
    def faults(cls, parts: Mapping[str, Any]) -> list[str]:
        none = parts["task"].num_fewshot == 0
        return ["task.num_fewshot: without demonstrations this is method zero-shot; give 1 or more"] if none else []
