"""What benchmarks.meta_training measures: the methods, each with a session of the same rows, and made-up rows."""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from statistics import mean
from typing import Any

from zofo.api.memory.footprint import Rows
from zofo.data import Example, TaskData
from zofo.data.batch import collate
from zofo.data.tokenization import Encoded

BANK, SHARED, DIRECT, CHANNEL = "bilevel, bank", "bilevel, shared", "metaicl, direct", "metaicl, channel"
PLAIN, PAPER = "multi-task-ft", "bilevel, preset meta"
METHODS: dict[str, dict[str, Any]] = {
    BANK: {"method": {"name": "meta-bilevel-zofo"}},
    SHARED: {"method": {"name": "meta-bilevel-zofo", "adapters": "shared"}},
    DIRECT: {"method": {"name": "metaicl"}},
    CHANNEL: {"method": {"name": "metaicl"}, "task": {"template": "channel"}},
    PLAIN: {"method": {"name": "multi-task-ft"}},
    PAPER: {"preset": "meta"},  # a gaussian z and zeroth-order Adam; not among the default ones
}
DRAWS = 256


def configured(args: argparse.Namespace, name: str, inner_steps: int) -> Any:
    """A method's configuration; all have the same batch size, training rows and seed."""
    from zofo.api.configure import resolve

    sections = METHODS[name]
    method = dict(sections.get("method", {"name": "meta-bilevel-zofo"}))
    task = {
        "name": args.setting,
        "data": args.data,
        "train_examples": args.train_examples,
        "dev_examples": 4,
        "test_examples": 4,
        **sections.get("task", {}),
    }
    if method["name"] == "meta-bilevel-zofo":
        method["inner_steps"] = inner_steps
    if method["name"] == "metaicl":
        task["num_fewshot"] = args.shots
    train = {"output_dir": "unused", "threads": args.threads, "batch_size": args.batch_size}
    model = {"name": args.model, "dtype": "float32"}
    return resolve(preset=sections.get("preset"), model=model, task=task, method=method, train=train)


class Trained:
    """One method's session, all of whose batches are the same rows."""

    def __init__(self, args: argparse.Namespace, name: str, inner_steps: int) -> None:
        from zofo.train.setup import build

        self.session = build(configured(args, name, inner_steps))
        streams = self.session.method.streams
        self.rows = {e.example.id: e for stream in streams for e in self.session.encoded[stream]}
        self.counted = self.session.method.per_step

    def at(self, ids: Sequence[str]) -> None:
        """A stream's batch is its own object, as in a run: only what is one batch there shares a forward here."""
        session = self.session
        batches = {name: collate([self.rows[i] for i in ids], session.loaded.pad_id) for name in session.method.streams}
        session.problem.streams = {name: repeat(batch) for name, batch in batches.items()}
        session.problem.rate, session.problem.descents = lambda rate, step: 0.0 * rate, []
        session.method.setup(session.problem)

    def step(self) -> None:
        """An upper iteration, or one first-order step."""
        self.session.method.step(0)

    def cost(self, iterations: int) -> dict[str, float]:
        """What a counted step added to the meter in so many iterations since the start; all took the same."""
        counts = self.session.problem.loss.meter.state_dict()
        return {name: count / iterations / self.counted for name, count in counts.items()}


def choose(methods: dict[str, Trained], size: int) -> list[str]:
    """Ids of training rows, from the tasks in turn, as near to each method's mean length as any of the draws."""
    one = next(iter(methods.values()))
    groups: dict[str, list[str]] = {}
    for key, e in sorted(one.rows.items()):
        groups.setdefault(e.example.group, []).append(key)
    means = {name: mean(e.size for e in of.rows.values()) for name, of in methods.items()}

    def off(ids: list[str]) -> float:
        sizes = {name: mean(of.rows[i].size for i in ids) for name, of in methods.items()}
        return max(abs(sizes[name] / means[name] - 1) for name in methods)

    rng, draws = random.Random("benchmarks.meta_training"), []
    for _ in range(DRAWS):
        tasks = rng.sample(sorted(groups), len(groups))
        draws.append([rng.choice(groups[tasks[i % len(tasks)]]) for i in range(size)])
    return min(draws, key=lambda ids: (len(set(ids)) < size, off(ids)))  # a row twice only where there are too few


@dataclass(frozen=True)
class Grouped(Rows):
    """Made-up rows of many tasks, as the bank needs them."""

    tasks: tuple[str, ...] = ()

    def encoded(self, n: int, vocabulary: int) -> list[Encoded]:
        every = super().encoded(n, vocabulary)
        return [Encoded(self._of(i), e.rows, e.gold, e.n_options) for i, e in enumerate(every)]

    def task(self, n: int) -> TaskData:
        examples = [self._of(i) for i in range(max(n, 4 * len(self.tasks)))]
        groups = dict.fromkeys(self.tasks, "accuracy")
        return TaskData("rows", 1, "lm", ("task_mean",), examples, examples, examples, (), groups=groups)

    def _of(self, i: int) -> Example:
        return Example(str(i), "a b", (" c",), (0,), group=self.tasks[i % len(self.tasks)])
