"""The protocol: each way, target task and seed of demonstrations; one small file each, so that it can be resumed.

Bilevel ZOFO (arXiv 2502.03604), section 4.2 and B.5; the seeds and the text are MetaICL's (arXiv 2110.15943).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from zofo.api.metatest.plan import Plan, is_tuned
from zofo.api.metatest.store import Part, Store
from zofo.api.metatest.subject import Subject
from zofo.config.sections import TaskConfig
from zofo.data import TaskData
from zofo.data.example import TASK_MEAN
from zofo.data.multitask.layout import Layout, limit, make_layout
from zofo.data.multitask.pool import Pool
from zofo.data.multitask.rows import Row
from zofo.data.multitask.setting import OpenSetting
from zofo.data.tokenization import Encoded
from zofo.errors import NonFiniteError, RunError
from zofo.eval.likelihood import as_rows

Say = Callable[[str], None]


@dataclass
class Protocol:
    """Measures one subject on the opened setting's target tasks; `store` keeps the parts."""

    subject: Subject
    setting: OpenSetting
    task: TaskConfig
    plan: Plan
    seed: int  # of the samples and of the order of what is tuned on
    store: Store = field(default_factory=lambda: Store(None))
    say: Say = lambda text: None
    layout: Layout = field(init=False)

    def __post_init__(self) -> None:
        self.layout = make_layout(self.task.template, self.subject.loaded.tokenizer)
        self._tests: dict[tuple[str, int, int | None, bool], list[Encoded]] = {}
        self._rows: dict[str, list[Row]] = {}
        self._done = 0

    def run(self) -> list[Part]:
        """Every part: {way, task, seed, metric, value, n, loss, seconds, ...}; those that the store has are read.

        Raises RunError where a tuning diverges on a target task.
        """
        tuned = [way for way in self.plan.ways if is_tuned(way)]
        parts = self._measure([way for way in self.plan.ways if way not in tuned], {})
        parts += self._measure(tuned, {way: self.rate(way) for way in tuned})
        return sorted(parts, key=lambda part: self.plan.ways.index(part["way"]))

    @property
    def total(self) -> int:
        """How many parts there are, those that choose the rates included."""
        plan, targets = self.plan, len(self.setting.target)
        count = sum(targets * len(self._seeds(way)) for way in plan.ways)
        if len(plan.rates) > 1:
            trials = len(plan.rates) * len(plan.rate_seeds) * len(self.setting.held_out)
            count += trials * sum(is_tuned(way) for way in plan.ways)
        return count

    def _seeds(self, way: str) -> tuple[int, ...]:
        """Without demonstrations there is nothing that a seed decides."""
        return self.plan.seeds[:1] if way.startswith("zero-shot") else self.plan.seeds

    def _measure(self, ways: Sequence[str], rates: Mapping[str, float]) -> list[Part]:
        parts = []
        for name, pool in self.setting.target.items():
            for way in ways:
                for seed in self._seeds(way):
                    parts.append(self._stored(f"{way}/{name}", way, pool, seed, rates.get(way)))
            self._tests.clear()
        return parts

    def read(self) -> None:
        """Read and check every row that is needed. Raises InputError."""
        for pool in {**self.setting.target, **self.setting.held_out}.values():
            self._test_rows(pool)
            for seed in self.plan.seeds if "in-context" in self.plan.ways else ():
                pool.demonstrations(self.plan.k, seed)
            for seed in self.plan.seeds if self.plan.tunes else ():
                pool.few(self.plan.each, seed)

    def rate(self, way: str) -> float:
        """The candidate with the best mean score on the held-out training tasks; a tie goes to the lower mean loss.

        Raises RunError where all of them diverge.
        """
        if len(self.plan.rates) == 1:
            return self.plan.rates[0]
        scored = []
        for rate in self.plan.rates:
            try:
                parts = [
                    self._stored(f"{way}/rates/{name}/{rate!r}", way, pool, seed, rate)
                    for name, pool in self.setting.held_out.items()
                    for seed in self.plan.rate_seeds
                ]
            except RunError as error:
                self.say(f"{way}, rate {rate:g}: left out: {error}")
                continue
            score = sum(part["value"] for part in parts) / len(parts)
            losses = [math.nan if part["loss"] is None else part["loss"] for part in parts]  # null in a part's file
            loss = sum(losses) / len(losses)
            scored.append((-score, loss if math.isfinite(loss) else math.inf, rate))
            self.say(f"{way}, rate {rate:g}: {100 * score:.1f} on the held-out training tasks, loss {loss:.4f}")
        if not scored:
            raise RunError(f"{way}: every rate diverges on the held-out training tasks; give smaller --rates")
        best = min(scored)[-1]
        self.say(f"{way}: rate {best:g} is taken")
        return best

    def _stored(self, name: str, way: str, pool: Pool, seed: int, rate: float | None) -> Part:
        """The part from its file, or made and written."""
        facts = {"way": way, "task": pool.name, "seed": seed, "metric": pool.metric}
        facts |= {} if rate is None else {"rate": rate}
        part, made = self.store.part(f"{name}-{seed}", lambda: self.part(way, pool, seed, rate), facts)
        self._done += 1
        if made:
            what = [f"{self._done}/{self.total} {way} on {pool.name}"]
            what += [f"seed {seed}"] if len(self._seeds(way)) > 1 else []
            what += [f"rate {rate:g}"] if rate is not None else []
            self.say(f"{', '.join(what)}: {part['metric']} {100 * part['value']:.1f} ({part['n']} examples)")
        return part

    def part(self, way: str, pool: Pool, seed: int, rate: float | None) -> Part:
        """One measurement. seed: of the demonstrations. Raises RunError where the tuning diverges."""
        facts: Part = {"way": way, "task": pool.name, "seed": seed, "metric": pool.metric}
        shown = pool.demonstrations(self.plan.k, seed) if way == "in-context" else []
        if rate is not None:
            facts |= self._tune(way, pool, seed, rate)
        elif way == "zero-shot-s":
            self.subject.begin(way)
        tests = self._encoded(way, pool, shown, seed)
        start = time.perf_counter()
        evaluation = self.subject.measure(tests, self._data(pool), limit(len(shown)), way)
        evaluation.checked(f"{way} on {pool.name}, seed {seed}" + ("" if rate is None else f", rate {rate:g}"))
        facts |= {"seconds": time.perf_counter() - start, "n": len(tests), "loss": evaluation.loss}
        facts["value"] = evaluation.values[TASK_MEAN]
        if pool.name not in self.setting.held_out:
            self.store.predictions(f"{way}/{pool.name}-{seed}", as_rows(evaluation, tests))
        return facts

    def _tune(self, way: str, pool: Pool, seed: int, rate: float) -> Part:
        rows, plan = pool.few(self.plan.each, seed), self.plan
        examples = [self.layout.example(row, group=pool.name, train=True) for row in rows]
        encoded = self.subject.encode(examples, limit(0), way, False, "tuning")
        start = time.perf_counter()
        try:
            loss = self.subject.tune(way, encoded, self._data(pool), plan.steps, plan.batch_size, rate, seed)
        except NonFiniteError as error:
            raise RunError(
                f"{way} on {pool.name}, seed {seed}, rate {rate:g}: {error}; give smaller --rates"
            ) from error
        seconds = time.perf_counter() - start
        return {"rate": rate, "tuned_on": len(rows), "tuning_loss": loss, "tuning_seconds": seconds}

    def _encoded(self, way: str, pool: Pool, shown: list[Row], seed: int) -> list[Encoded]:
        key = (pool.name, len(shown), seed if shown else None, way in self.subject.starts)
        if key not in self._tests:
            examples = [self.layout.example(row, shown, group=pool.name) for row in self._test_rows(pool)]
            self._tests[key] = self.subject.encode(examples, limit(len(shown)), way, True, pool.name)
        return self._tests[key]

    def _test_rows(self, pool: Pool) -> list[Row]:
        """The same for every way and seed."""
        if pool.name not in self._rows:
            used = pool.used(self.plan.each, self.plan.k, self.plan.seeds)
            self._rows[pool.name] = pool.test(self.plan.test_examples, self.seed, without=used)
        return self._rows[pool.name]

    def _data(self, pool: Pool) -> TaskData:
        """What an evaluator asks of a task."""
        groups = {pool.name: pool.metric}
        return TaskData(pool.name, 1, "lm", (TASK_MEAN,), [], [], [], (), scoring=self.task.scoring, groups=groups)
