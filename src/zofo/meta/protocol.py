"""The protocol: each way, target task and seed of demonstrations; one small file each, so that it can be resumed.

Bilevel ZOFO (arXiv 2502.03604), section 4.2 and B.5; the seeds and the text are MetaICL's (arXiv 2110.15943).
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zofo import checkpoint
from zofo.config import TaskConfig
from zofo.data import Encoded
from zofo.errors import InputError
from zofo.evaluator import TASK_MEAN
from zofo.meta.plan import Plan, is_tuned
from zofo.meta.subject import Subject
from zofo.scoring import Evaluation, as_rows
from zofo.tasks import TaskData
from zofo.tasks._layout import Layout, limit, make_layout
from zofo.tasks._pool import Pool, Row
from zofo.tasks._setting import OpenSetting

Part = dict[str, Any]
Say = Callable[[str], None]


@dataclass
class Protocol:
    """Measures one subject on the opened setting's target tasks. `out`: where the parts are kept, None for nowhere."""

    subject: Subject
    setting: OpenSetting
    task: TaskConfig
    plan: Plan
    seed: int  # of the samples and of the order of what is tuned on
    out: Path | None = None
    say: Say = lambda text: None
    layout: Layout = field(init=False)

    def __post_init__(self) -> None:
        self.layout = make_layout(self.task.template, self.subject.loaded.tokenizer)
        self._tests: dict[tuple[str, int, int | None], list[Encoded]] = {}
        self._rows: dict[str, list[Row]] = {}

    def run(self) -> list[Part]:
        """Every part: {way, task, seed, metric, value, n, loss, seconds, ...}; those that `out` has are read."""
        rates = {way: self.rate(way) for way in self.plan.ways if is_tuned(way)}
        found = []
        for name, pool in self.setting.target.items():
            for way in self.plan.ways:
                for seed in self._seeds(way):
                    found.append(self._kept(f"{way}/{name}", seed, lambda: self.part(way, pool, seed, rates.get(way))))  # noqa: B023 (called at once)
            self._tests.clear()
        return found

    def _seeds(self, way: str) -> tuple[int, ...]:
        """Without demonstrations there is nothing that a seed decides."""
        return self.plan.seeds[:1] if way.startswith("zero-shot") else self.plan.seeds

    def rate(self, way: str) -> float:
        """The candidate with the best mean score on the held-out training tasks; a tie goes to the lower mean loss."""
        if len(self.plan.rates) == 1:
            return self.plan.rates[0]
        scored = []
        for rate in self.plan.rates:
            parts = [
                self._kept(f"{way}/rates/{name}/{rate:g}", seed, lambda: self.part(way, pool, seed, rate))  # noqa: B023
                for name, pool in self.setting.held_out.items()
                for seed in self.plan.rate_seeds
            ]
            score, loss = (sum(part[key] for part in parts) / len(parts) for key in ("value", "loss"))
            scored.append((-score, loss, rate))
            self.say(f"{way}, rate {rate:g}: {100 * score:.1f} on the held-out training tasks, loss {loss:.4f}")
        return min(scored)[-1]

    def part(self, way: str, pool: Pool, seed: int, rate: float | None) -> Part:
        """One measurement. seed: of the demonstrations."""
        facts: Part = {"way": way, "task": pool.name, "seed": seed, "metric": pool.metric}
        shown = pool.demonstrations(self.plan.k, seed) if way == "in-context" else []
        if is_tuned(way):
            assert rate is not None
            rows = pool.few(self.plan.each, seed)
            examples = [self.layout.example(row, group=pool.name, train=True) for row in rows]
            encoded = self.subject.encode(examples, limit(0), False, "tuning")
            start = time.perf_counter()
            loss = self.subject.tune(way, encoded, self.plan.steps, self.plan.batch_size, rate, seed)
            facts |= {"rate": rate, "tuned_on": len(rows), "tuning_loss": loss,
                      "tuning_seconds": time.perf_counter() - start}  # fmt: skip
        elif way == "zero-shot-s":
            self.subject.begin(way)
        tests = self._encoded(pool, shown, seed)
        start = time.perf_counter()
        found = self.subject.measure(tests, self._data(pool), limit(len(shown)), way)
        facts |= {"seconds": time.perf_counter() - start, "n": len(tests), "loss": found.loss}
        facts["value"] = found.values[TASK_MEAN]
        self._predictions(facts, found, tests)
        return facts

    def _encoded(self, pool: Pool, shown: list[Row], seed: int) -> list[Encoded]:
        key = (pool.name, len(shown), seed if shown else None)
        if key not in self._tests:
            examples = [self.layout.example(row, shown, group=pool.name) for row in self._test_rows(pool)]
            self._tests[key] = self.subject.encode(examples, limit(len(shown)), True, pool.name)
        return self._tests[key]

    def _test_rows(self, pool: Pool) -> list[Row]:
        """The same rows for every way and seed: none that any seed shows or tunes on, where a task has one file."""
        if pool.name not in self._rows:
            used = [
                row
                for s in self.plan.seeds
                for row in (*pool.few(self.plan.each, s), *pool.demonstrations(self.plan.k, s))
            ]
            self._rows[pool.name] = pool.test(self.plan.test_examples, self.seed, without=used)
        return self._rows[pool.name]

    def _data(self, pool: Pool) -> TaskData:
        """What an evaluator asks of a task."""
        return TaskData(
            pool.name, 1, "lm", (TASK_MEAN,), [], [], [], scoring=self.task.scoring, labels=(),
            groups={pool.name: pool.metric},
        )  # fmt: skip

    def _kept(self, name: str, seed: int, make: Callable[[], Part]) -> Part:
        """The part from its file, or made and written."""
        path = None if self.out is None else self.out / "parts" / f"{name}-{seed}.json"
        if path is not None and path.is_file():
            return json.loads(path.read_text())
        part = make()
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            checkpoint.write_json(path, part)
        more = f", rate {part['rate']:g}" if "rate" in part else ""
        self.say(f"{name}, seed {seed}{more}: {part['metric']} {100 * part['value']:.1f} ({part['n']} examples)")
        return part

    def _predictions(self, facts: Mapping[str, Any], found: Evaluation, tests: list[Encoded]) -> None:
        if self.out is None or facts["task"] in self.setting.held_out:
            return
        path = self.out / "predictions" / facts["way"] / f"{facts['task']}-{facts['seed']}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in as_rows(found, tests)))


def claim(out: Path, facts: Mapping[str, Any], overwrite: bool) -> None:
    """Make `out` this measurement's: its parts are used again where plan.json says the same.

    Raises InputError where another measurement is there.
    """
    path = out / "plan.json"
    facts = json.loads(json.dumps(facts))
    old = json.loads(path.read_text()) if path.is_file() else None
    if old is not None and not overwrite:
        changed = sorted(key for key in {*old, *facts} if old.get(key) != facts.get(key))
        if changed:
            raise InputError(
                f"{out}: holds another measurement (other {', '.join(changed)}); choose another --output, or give "
                f"--overwrite"
            )
        return
    if old is None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists and is no meta-test's; choose another --output")
    for name in ("parts", "predictions"):
        shutil.rmtree(out / name, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint.write_json(path, facts)
