"""Evaluator: how a task's examples are evaluated, whatever it is: options by their scores, texts by generating them."""

from __future__ import annotations

import itertools
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from zofo.data import Example, TaskData
from zofo.data.calibration import NULLED
from zofo.data.example import TASK_MEAN, objective_of
from zofo.data.metrics import METRICS, NONE
from zofo.data.metrics.text import TEXT_METRICS
from zofo.data.rewards import Reward
from zofo.data.tokenization import Encoded, tokenize_prompt
from zofo.errors import InputError
from zofo.eval.decoding import Request, decode
from zofo.eval.likelihood import Evaluation, evaluate, null_scores
from zofo.models.backbone import Loaded
from zofo.models.scorer import Scorer
from zofo.objectives import metric
from zofo.objectives._base import Objective
from zofo.objectives._loss import Loss
from zofo.zo.keys import derive

log = logging.getLogger("zofo")
PASS_AT = (1, 10, 100)  # of HumanEval's paper, section 2.1


@dataclass
class Evaluator:
    loss: Loss  # with a likelihood as its objective; its model writes, with the adapter that is active then
    data: TaskData
    tokenizer: Any
    max_length: int | None
    batch_size: int
    seed: int
    run_code: bool = False
    reward: Reward | None = None  # of what is written, where task.metric names one; fitted to the data
    _prompts: dict[str, list[int]] = field(default_factory=dict, repr=False)

    def __call__(
        self, encoded: Sequence[Encoded], progress: Callable[[int], None] | None = None, generate: bool = True
    ) -> Evaluation:
        """Loss and metrics. generate: False leaves out the metrics of generated texts, which cost most."""
        null, scoring = None, self.data.scoring
        if scoring in NULLED:
            examples = [e.example for e in encoded]
            scorer, ranks = self.loss.scorer, self.loss.ranks
            null = null_scores(scorer, examples, self.tokenizer, self.max_length, self.batch_size, scoring, ranks)
        one_answer = all(len({e.example.answers[i] for i in e.gold}) == 1 for e in encoded)
        labels = self.data.labels if one_answer else ()
        evaluation = evaluate(self.loss, encoded, self.data.metrics, self.batch_size, progress, scoring, labels, null)
        evaluation = replace(evaluation.named(self.data.name), labels=tuple(self.data.labels))
        if not self.data.answered:
            evaluation = _without_loss(evaluation)
        if self.data.groups:
            return by_task(evaluation, encoded, self.data.groups)
        if self.data.kind != "generation" or not generate:
            return evaluation
        texts, measured = self._written([e.example for e in encoded], progress)
        measured = [
            self._wrong(values) if p.predicted == NONE else values
            for values, p in zip(measured, evaluation.predictions)
        ]
        outcomes = zip(evaluation.predictions, texts, measured)
        predictions = [replace(p, texts=tuple(t), measures=m) for p, t, m in outcomes]
        names = list(dict.fromkeys(name for m in measured for name in m))
        values = {name: sum(m[name] for m in measured) / len(measured) for name in names}
        return Evaluation(evaluation.values | values, predictions)

    def _written(
        self, examples: Sequence[Example], progress: Callable[[int], None] | None
    ) -> tuple[list[list[str]], list[dict[str, float]]]:
        """(the texts of each example, its metrics). Each rank writes and measures a share of them: a reward is asked
        once for each."""
        ranks = self.loss.ranks
        mine = list(examples[ranks.place("world") :: ranks.count("world")])
        of_all = (lambda done: progress(min(done * ranks.count("world"), len(examples)))) if progress else None
        texts = self.decode(mine, of_all)
        both = ranks.objects(list(zip(texts, self.measure(texts, mine))), len(examples))
        return [each for each, _ in both], [values for _, values in both]

    @torch.no_grad()
    def decode(self, examples: Sequence[Example], progress: Callable[[int], None] | None = None) -> list[list[str]]:
        """`decoding.samples` texts for each example. progress: called with the number of texts so far."""
        decoding, requests = self.data.decoding, []
        self.prepare(examples)
        for example in examples:
            ids = self._prompts[example.id]
            keys = [derive(self.seed, f"write/{example.id}", i) for i in range(decoding.samples)]
            chat = example.cuttable is not None
            requests += [Request(ids, decoding.max_new_tokens, key, chat) for key in keys]
        count = itertools.count(1)
        texts = decode(
            self.loss.scorer.model,
            self.tokenizer,
            requests,
            decoding,
            self.loss.scorer.pad_id,
            self.batch_size,
            (lambda number, text: progress(next(count) // decoding.samples)) if progress else None,
        )
        return [texts[i : i + decoding.samples] for i in range(0, len(texts), decoding.samples)]

    def prepare(self, examples: Sequence[Example]) -> None:
        """Tokenize the prompts of texts to come. Raises InputError for one that leaves no room for a text, and where
        programs are to be run and cannot be: hours later would be too late."""
        if self.run_code and "pass_at_k" in self.data.metrics and not self._prompts:
            from zofo.eval import sandbox

            if why := sandbox.missing():
                raise InputError(f"task.run_generated_code: {why}")
        room = None if self.max_length is None else self.max_length - self.data.decoding.max_new_tokens + 1
        for example in examples:
            if example.id not in self._prompts:
                self._prompts[example.id] = tokenize_prompt(self.tokenizer, example, room)

    def objective(self) -> Objective:
        """Minus the leading metric, as an objective of zeroth-order updates."""
        if self.data.kind != "generation":
            return metric.Objective()

        def of(examples: Sequence[Example]) -> list[float]:
            return [values[self.data.metric] for values in self.measure(self.decode(examples), examples)]

        return metric.Objective(of)

    def measure(self, texts: Sequence[Sequence[str]], examples: Sequence[Example]) -> list[dict[str, float]]:
        """Each metric of each example: the mean over its samples, or pass@k."""
        measured: list[dict[str, float]] = [{} for _ in examples]
        for name in self.data.metrics:
            if self.reward is not None and name == self.reward.name:
                for values, each in zip(measured, self.reward(texts, examples)):
                    values[name] = sum(each) / len(each)
                continue
            if name == "pass_at_k":
                for values, more in zip(measured, self._run(texts, examples)):
                    values |= more
                continue
            for values, samples, example in zip(measured, texts, examples):
                values[name] = sum(TEXT_METRICS[name](text, example.reference) for text in samples) / len(samples)
        return measured

    def _wrong(self, measures: Mapping[str, float]) -> dict[str, float]:
        """Of a text that a model of NaN wrote, whose tokens are the first of the vocabulary and no answer. A reward of
        it is no number either: 0 may be more than any that is."""
        own = self.reward.name if self.reward else ""
        return {name: math.nan if name == own else 0.0 for name in measures}

    def _run(self, texts: Sequence[Sequence[str]], examples: Sequence[Example]) -> list[dict[str, float]]:
        """pass@k of each example, from its samples' programs, run in the sandbox where that was asked for."""
        if not self.run_code:
            log.warning(
                "task %s: pass@k is not measured: it runs the programs that the model wrote, in a sandbox, "
                "with task.run_generated_code=true (--run-generated-code)",
                self.data.name,
            )
            return [{} for _ in examples]
        from zofo.data.metrics import humaneval
        from zofo.eval import sandbox

        programs = [
            humaneval.program(task["prompt"], text, task["test"], task["entry_point"])
            for task, samples in zip((example.reference for example in examples), texts)
            for text in samples
        ]
        passed = iter([outcome.passed for outcome in sandbox.run_all(programs, workers=min(8, os.cpu_count() or 1))])
        counts = [(len(samples), sum(next(passed) for _ in samples)) for samples in texts]
        return [{f"pass_at_{k}": humaneval.pass_at_k(n, c, k) for k in PASS_AT if k <= n} for n, c in counts]


def _without_loss(evaluation: Evaluation) -> Evaluation:
    """What was computed with a stand-in for the answers shows whether the model says anything, and nothing else."""
    values = {name: value for name, value in evaluation.values.items() if name in ("n", "unpredicted")}
    return replace(evaluation, values=values, predictions=[replace(p, loss=math.nan) for p in evaluation.predictions])


def make_evaluator(
    scorer: Scorer,
    data: TaskData,
    loaded: Loaded,
    batch_size: int,
    seed: int,
    run_code: bool = False,
    reward: Reward | None = None,
    **settings: Any,
) -> Evaluator:
    """The evaluator of a task's data; its `loss` is F with the task's objective. reward: where the data is measured by
    one. settings: of `Loss`."""
    loss = Loss(scorer, objective_of(data.objective)(), **settings)
    return Evaluator(loss, data, loaded.tokenizer, loaded.max_length, batch_size, seed, run_code, reward)


def by_task(evaluation: Evaluation, encoded: Sequence[Encoded], metrics: Mapping[str, str]) -> Evaluation:
    """The evaluation of many tasks' examples: `task_mean` is the mean over tasks of each task's own metric.

    metrics: {task: "macro_f1" or "accuracy"}. report: {"tasks": {task: {metric: value, "n": examples}}}.
    """
    tasks: dict[str, dict[str, float]] = {}
    for task in dict.fromkeys(e.example.group for e in encoded):
        predictions = [p for p, e in zip(evaluation.predictions, encoded) if e.example.group == task]
        value = METRICS[metrics[task]]([p.gold for p in predictions], [p.predicted for p in predictions])
        tasks[task] = {metrics[task]: value, "n": len(predictions)}
    mean = sum(values[metrics[task]] for task, values in tasks.items()) / len(tasks)
    return replace(evaluation, values=evaluation.values | {TASK_MEAN: mean}, report={"tasks": tasks})
