"""From the rows of a setting's tasks to examples: the training tasks' own, and those that are measured on."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from zofo.config import registry
from zofo.data.example import Example, objective_of
from zofo.data.files import BadRows
from zofo.data.multitask.layout import Layout
from zofo.data.multitask.pool import Pool
from zofo.data.multitask.rows import Row
from zofo.errors import InputError

if TYPE_CHECKING:
    from zofo.config.sections import TaskConfig

Made = list[tuple[Example, tuple[str, str]]]  # with what makes two rows the same


class Reading:
    """From pools to examples."""

    def __init__(self, cfg: TaskConfig, layout: Layout, seed: int, shots_seed: int, bad: BadRows):
        self.cfg, self.layout, self.seed, self.shots_seed, self.bad = cfg, layout, seed, shots_seed, bad
        asked = "lm" if cfg.objective == "auto" else registry.canonical(cfg.objective)
        self.given: Counter[str] = Counter()  # rows of the files of each split
        self.objective = asked if objective_of(asked).encodes else "lm"

    def train(self, pools: dict[str, Pool], demonstrates: bool) -> Made:
        k = self.cfg.num_fewshot if demonstrates else 0
        gold_only = objective_of(self.objective).encodes == "gold"
        made: Made = []
        for name, pool in pools.items():
            if not gold_only and pool.kind == "free-form":
                raise InputError(f"task.objective: the training task {name} has rows without options; use lm")
            rows = pool.train(self.cfg.train_examples, self.seed)
            self.given["train"] += pool.size("train")
            pool.forget()
            self.layout.prepare(rows, gold_only, first=not k)
            for first in (True, False) if k else ():
                self.layout.prepare(rows, True, first)
            made += self._made(rows, lambda row: self._others(name, rows, row, k), name, gold_only)  # noqa: B023 (at once)
        return made

    def _made(self, rows: Sequence[Row], shown: Callable[[Row], Sequence[Row]], name: str, train: bool = False) -> Made:
        """The rows that can be used, as examples. shown: the demonstrations before a row."""
        made: Made = []
        for row in rows:
            demonstrations = shown(row)
            try:
                made.append((self.layout.example(row, demonstrations, name, train), row.text))
            except InputError as error:
                self.bad.refuse(error, row.place)
        if self.bad.faults:
            self.bad.check(name, len(rows), 0)
        if rows and not made:
            raise InputError(f"{name}: none of its {len(rows)} rows can be used: {self.bad.lines()[0]}")
        return made

    def measured(self, pools: dict[str, Pool], split: Literal["dev", "test"]) -> Made:
        n = self.cfg.dev_examples if split == "dev" else self.cfg.test_examples
        made: Made = []
        for name, pool in pools.items():
            shown = pool.demonstrations(self.cfg.num_fewshot, self.shots_seed)
            rows = pool.test(n, self.seed, without=shown)
            self.given[split] += pool.size("test")
            self.layout.prepare(rows, first=not shown)
            made += self._made(rows, lambda row: shown, name)  # noqa: B023 (called at once)
        return made

    def _others(self, name: str, rows: Sequence[Row], row: Row, k: int) -> list[Row]:
        """k rows to show before this one, drawn by its id, none of them the same."""
        if not k:
            return []
        draw = random.Random(f"{self.seed}/setting/shown/{row.id}")
        for size in (min(2 * k, len(rows)), len(rows)):  # mostly the first, small draw is enough
            drawn = {other.text: other for other in draw.sample(rows, size) if other.text != row.text}
            if len(drawn) >= k:
                return list(drawn.values())[:k]
        raise InputError(
            f"task.num_fewshot: {row.place}: {name} has {len(drawn)} other training rows, and {k} are to be shown; "
            "give a smaller number, or more rows (task.train_examples)"
        )
