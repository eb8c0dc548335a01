"""Evaluation: the loss and the metric of a set of examples, from one batched pass over their options."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from zofo.data import Encoded, eval_batches
from zofo.metrics import METRICS
from zofo.objective import Loss, option_scores


@dataclass(frozen=True)
class Prediction:
    """One example's outcome. scores: mean log-probability of each option's tokens."""

    id: str
    scores: tuple[float, ...]
    predicted: int
    gold: tuple[int, ...]
    loss: float


@dataclass(frozen=True)
class Evaluation:
    """`loss` is the training objective on the whole set; `values` also holds the metric, where the task has one."""

    values: dict[str, float]
    predictions: list[Prediction]

    @property
    def loss(self) -> float:
        return self.values["loss"]


@torch.no_grad()
def evaluate(
    loss: Loss, encoded: Sequence[Encoded], metric: str, batch_size: int, progress: Callable[[int], None] | None = None
) -> Evaluation:
    """Score every option of every example with the model as it stands. The meter is not moved: this is no training.

    progress: called with the number of examples done so far.
    """
    found: list[Prediction | None] = [None] * len(encoded)
    total, weight, done = 0.0, 0.0, 0
    for indices, batch in eval_batches(encoded, batch_size, loss.pad_id):
        batch = batch.to(loss.device)
        logp = loss.head.logprobs(loss.model, batch)
        sums, weights = (x.double().cpu() for x in loss.objective(logp, batch))
        total, weight = total + float(sums.sum()), weight + float(weights.sum())
        scores = option_scores(logp, batch).cpu().split([encoded[i].n_options for i in indices])
        for place, index in enumerate(indices):
            e, own = encoded[index], scores[place]
            value = float(sums[place] / weights[place])
            found[index] = Prediction(e.example.id, tuple(own.tolist()), int(own.argmax()), e.gold, value)
        done += len(indices)
        if progress is not None:
            progress(done)
    predictions = [p for p in found if p is not None]
    values: dict[str, float] = {"loss": total / weight, "n": len(predictions)}
    if metric in METRICS:
        values[metric] = METRICS[metric]([p.gold for p in predictions], [p.predicted for p in predictions])
    elif metric == "loss":
        values["perplexity"] = math.exp(min(values["loss"], 700.0))
    return Evaluation(values, predictions)


def as_rows(evaluation: Evaluation, encoded: Sequence[Encoded]) -> list[dict[str, Any]]:
    """The lines of predictions.jsonl."""
    rows = []
    for p, e in zip(evaluation.predictions, encoded):
        answers = e.example.answers
        rows.append(
            {
                "id": p.id,
                "prompt": e.example.prompt,
                "answers": list(answers),
                "gold": list(p.gold),
                "predicted": p.predicted,
                "correct": p.predicted in p.gold,
                "scores": list(p.scores),
                "loss": p.loss,
            }
        )
    return rows
