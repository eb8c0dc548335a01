"""MetaICL: first-order training of every weight to learn from k demonstrations in its context.

Min, Lewis, Zettlemoyer, Hajishirzi (NAACL 2022, arXiv 2110.15943). Each training example has k answered
ones of its own task before it; the loss is on its output alone. At test time a new task's k examples stand there.

| symbol | field | default | place |
|---|---|---|---|
| k | task.num_fewshot | 4 | Bilevel ZOFO, section 4.2; 16 in MetaICL |
| eta | lr | 1e-5 | Bilevel ZOFO, B.5.2 |
| batch | train.batch_size | 8 | 1 on each of 8 devices, Bilevel ZOFO, B.5.2 |
| direct or channel | task.template | default: direct | `channel` predicts the input from the output |

Preset `metaicl` has the steps and lengths of the paper's baseline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zofo.methods import fo_ft
from zofo.methods.meta_bilevel_zofo import REASON, TASKS


def defaults(names: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    return {
        **TASKS,
        "task.num_fewshot": (4, "default: of method metaicl"),
        "train.batch_size": (8, f"{REASON} (1 on each of 8 devices, B.5.2)"),
    }


@dataclass(frozen=True)
class Config(fo_ft.Config):
    pass


class Method(fo_ft.Method):
    """theta <- theta - lr grad_theta F(theta; B), B's prompts with demonstrations."""

    many = True
    demonstrates = True

    @classmethod
    def faults(cls, parts: Mapping[str, Any]) -> list[str]:
        none = parts["task"].num_fewshot == 0
        return ["task.num_fewshot: without demonstrations this is method multi-task-ft; give 1 or more"] if none else []
