"""Bilevel ZOFO on many tasks: zeroth-order steps of one backbone outside, each task's own adapter inside.

Shirkavand, Yu, He, Huang (NeurIPS 2025, arXiv 2502.03604), sections 4.2 and B.5: a few training tasks are sampled for
each upper iteration, T lower steps are made on their mixture, then one upper step on a batch of their upper-level data.
The rest is Algorithm 2, by the same code (`bilevel-zofo`).

| symbol | field | default | place |
|---|---|---|---|
| sampled tasks | tasks_per_step | 5 | B.5.2 |
| s and p | adapters | a pair for each training task | the authors' code; section 4.2 does not say |
| T | inner_steps | 10 | B.5.2 |
| D_f : D_p, of each task | upper_share | 1/3: 256 of 768 examples | B.5.2 |
| batch | train.batch_size | 4, of all sampled tasks together | B.5.2 |
| the rest | | | as in `bilevel-zofo` |

Preset `meta` has the paper's rates and iterations. With a pair for each task a batch is computed in one forward, each
row with its own task's adapter. A run deploys the backbone alone; with one shared pair, s beside it if dev prefers it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from zofo.methods import bilevel_zofo

if TYPE_CHECKING:
    from zofo.methods._problem import Metrics

REASON = "default: of meta-training"
TASKS = {
    "task.train_examples": (768, f"{REASON}, of each task (B.5.2)"),
    "task.dev_examples": (100, f"{REASON}, of each task"),
}


def defaults(names: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    return {**TASKS, "train.batch_size": (4, f"{REASON} (B.5.2)")}


@dataclass(frozen=True)
class Config(bilevel_zofo.Config):
    deploy: Literal["best", "s", "theta"] = field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="best", metadata={"help": "what dev may choose: the backbone alone, or with the shared s"}
    )
    tasks_per_step: int = field(
        default=5, metadata={"help": "training tasks sampled for an upper iteration", "paper": "B.5.2", "ge": 1}
    )
    adapters: Literal["per-task", "shared"] = field(
        default="per-task", metadata={"help": "a pair p, s for each training task, or one pair for all"}
    )

    def problems(self) -> list[str]:
        if self.adapters == "per-task" and self.deploy == "s":
            return ["deploy: there is an s for each training task and none for another; give adapters=shared too"]
        return []


class Method(bilevel_zofo.Method):
    """Algorithm 2 on a few tasks at a time. One `step` is one upper iteration k."""

    many = True

    def __init__(self, config: Config, with_adapter: bool = True) -> None:
        super().__init__(config)
        self.bank, self.tasks_per_step = config.adapters == "per-task", config.tasks_per_step
        self.candidates = ("theta",) if self.bank else ("theta", "s")

    def step(self, k: int) -> Metrics:
        self.problem.among(self.sampled(k), k)
        return super().step(k)

    def sampled(self, k: int) -> list[str]:
        """The training tasks of iteration k: a draw without replacement, keyed by the seed and k."""
        tasks = self.problem.tasks
        draw = random.Random(f"{self.problem.seed}/tasks/{k}")
        return draw.sample(tasks, min(self.tasks_per_step, len(tasks)))
