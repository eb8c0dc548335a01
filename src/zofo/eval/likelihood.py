"""Evaluation: the loss and the metrics of a set of examples, from batched passes over their options or their texts."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from zofo.data.batch import Batch, collate
from zofo.data.calibration import NULLED, NullKey, null_examples, null_key
from zofo.data.example import Example, Scoring
from zofo.data.metrics import METRICS, NONE, one_right, report
from zofo.data.stream import eval_parts, forward_cost
from zofo.data.tokenization import Encoded, tokenize_all
from zofo.errors import RunError
from zofo.eval.prefix_cache import read_start
from zofo.models.scorer import Scorer
from zofo.objectives._base import option_scores
from zofo.objectives._loss import Loss
from zofo.zo.ranks import ALONE, Ranks

log = logging.getLogger("zofo")


@dataclass(frozen=True)
class Prediction:
    """One example's outcome. scores: of its options, by the task's scoring. texts: what was generated, if anything was.

    predicted: the option with the highest score; NONE where one of the scores is NaN, or none is more than -inf.
    measures: each metric of the generated texts, for this example alone.
    """

    id: str
    scores: tuple[float, ...]
    predicted: int
    gold: tuple[int, ...]
    loss: float  # NaN where nobody says what is right
    texts: tuple[str, ...] = ()
    measures: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Evaluation:
    """`loss` is the training objective on the whole set; `values` also holds the metrics, where the task has any.

    An example without a prediction is wrong in each metric, and `values["unpredicted"]` counts them, if there are any.
    A mean of losses with a NaN in it is NaN, which `train.selection` never takes.
    report: precision, recall and F1 of each class and the confusion matrix, where all examples share their options.
    labels: the options' names then, whatever their texts are.
    """

    values: dict[str, float]
    predictions: list[Prediction]
    report: dict[str, Any] | None = None
    labels: tuple[str, ...] = ()

    @property
    def loss(self) -> float:
        return self.values["loss"]

    @property
    def unpredicted(self) -> list[str]:
        """The examples without a prediction, by their ids."""
        return [p.id for p in self.predictions if p.predicted == NONE]

    @property
    def void(self) -> bool:
        """Whether no example has a prediction: the model says nothing."""
        return bool(self.predictions) and len(self.unpredicted) == len(self.predictions)

    def named(self, what: str) -> Evaluation:
        """Itself; a warning counts the examples without a prediction and names the first. what: "sst2", the task."""
        if ids := self.unpredicted:
            log.warning(
                "%s: %d of %d examples have scores that are NaN (%s is the first): no prediction, counted as wrong",
                what,
                len(ids),
                len(self.predictions),
                ids[0],
            )
        return self

    def checked(self, what: str) -> Evaluation:
        """Itself. Raises RunError where no example has a prediction. what: "task sst2, test", for the error."""
        if self.void:
            raise RunError(
                f"{what}: the scores of all {len(self.predictions)} examples are NaN, so there is no result: the "
                f"model's weights are not finite, or overflow in its dtype (try model.dtype=float32)"
            )
        return self


@torch.no_grad()
def evaluate(
    loss: Loss,
    encoded: Sequence[Encoded],
    metrics: str | Sequence[str],
    batch_size: int,
    progress: Callable[[int], None] | None = None,
    scoring: Scoring = "mean",
    labels: Sequence[str] = (),
    null: Mapping[NullKey, Sequence[float]] | None = None,
) -> Evaluation:
    """Score every option of every example with the model as it stands. The meter is not moved: this is no training.

    scoring: an option's score is the mean of its tokens' log-probabilities, their sum, the sum by the answer's
    characters, or minus the option's own under the prompt without its input, which `null` holds for each `null_key`:
    `calibrated` the sum (Zhao et al. 2021, Holtzman et al. 2021), `pmi` the mean (Min et al. 2022, MetaICL). labels:
    names of the options, for a report. progress: called with the number of examples done so far.
    """
    outcomes: list[Prediction | None] = [None] * len(encoded)

    def measured(indices: Sequence[int], logp: torch.Tensor, batch: Batch) -> torch.Tensor:
        sums, weights = (x.double().cpu() for x in loss.objective(logp, batch))
        scores = _scores([encoded[i] for i in indices], logp, batch, scoring, null or {})
        return torch.cat([sums.sum()[None], weights.sum()[None], sums / weights, *scores])

    total, weight = 0.0, 0.0
    for indices, each in _forwards(loss.scorer, encoded, batch_size, measured, 2, 1, loss.ranks, progress):
        total, weight = total + float(each[0]), weight + float(each[1])
        losses, by_example = each[2 : 2 + len(indices)], each[2 + len(indices) :]
        for index, value, by_option in zip(
            indices, losses.tolist(), by_example.split([encoded[i].n_options for i in indices])
        ):
            e = encoded[index]
            outcomes[index] = Prediction(e.example.id, tuple(by_option.tolist()), likeliest(by_option), e.gold, value)
    predictions = [p for p in outcomes if p is not None]
    values: dict[str, float] = {"loss": total / weight, "n": len(predictions)}
    if unpredicted := sum(p.predicted == NONE for p in predictions):
        values["unpredicted"] = unpredicted
    gold, predicted = [p.gold for p in predictions], [p.predicted for p in predictions]
    for metric in [metrics] if isinstance(metrics, str) else metrics:
        if metric in METRICS:
            values[metric] = METRICS[metric](gold, predicted)
        elif metric == "loss":
            values["perplexity"] = math.exp(min(values["loss"], 700.0))
    right = [(option,) for option in one_right(gold, predicted)]
    return Evaluation(values, predictions, report(right, predicted, labels) if labels else None)


def likeliest(scores: torch.Tensor) -> int:
    """The option with the highest score, the first of equal ones; NONE where one is NaN, or none is more than -inf.

    scores: [options]. torch's argmax takes a NaN for the highest.
    """
    known = not bool(scores.isnan().any()) and float(scores.max()) > -math.inf
    return int(scores.argmax()) if known else NONE


@torch.no_grad()
def option_scores_of(
    scorer: Scorer,
    encoded: Sequence[Encoded],
    batch_size: int,
    scoring: Scoring = "mean",
    null: Mapping[NullKey, Sequence[float]] | None = None,
    progress: Callable[[int], None] | None = None,
    ranks: Ranks = ALONE,
) -> list[torch.Tensor]:
    """fp64 [options] of each example: its options' scores, whichever is right. Arguments: see `evaluate`. ranks: those
    that share the batches."""
    scores: dict[int, torch.Tensor] = {}

    def scored(indices: Sequence[int], logp: torch.Tensor, batch: Batch) -> torch.Tensor:
        return torch.cat(_scores([encoded[i] for i in indices], logp, batch, scoring, null or {}))

    for indices, each in _forwards(scorer, encoded, batch_size, scored, 0, 0, ranks, progress):
        scores |= zip(indices, each.split([encoded[i].n_options for i in indices]))
    return [scores[i] for i in range(len(encoded))]


def _forwards(
    scorer: Scorer,
    encoded: Sequence[Encoded],
    batch_size: int,
    measure: Callable[[Sequence[int], torch.Tensor, Batch], torch.Tensor],
    of_batch: int,
    of_example: int,
    ranks: Ranks,
    progress: Callable[[int], None] | None,
) -> list[tuple[list[int], torch.Tensor]]:
    """(which examples, what `measure` makes of them) of all batches, which the ranks share.

    measure(which examples, the log-probability of each label, the batch) is float64: so many numbers of the batch, so
    many of each example, and one of each option.
    """
    start = read_start(scorer, encoded)
    if not ranks.every(start is not None):  # a probe's outcome is one machine's
        start = None
    parts, done = eval_parts(encoded, batch_size, forward_cost(scorer.device.type)), 0

    def compute(indices: list[int]) -> torch.Tensor:
        nonlocal done
        examples = [encoded[i] for i in indices]
        if start is not None:
            values = measure(indices, *start.logprobs(examples))
        else:
            batch = collate(examples, scorer.pad_id).to(scorer.device)
            values = measure(indices, scorer.logprobs(batch), batch)
        done += len(indices)
        if progress is not None:
            progress(min(done * ranks.count("world"), len(encoded)))
        return values

    sizes = [of_batch + sum(of_example + encoded[i].n_options for i in indices) for indices in parts]
    return list(zip(parts, ranks.dealt(parts, sizes, compute)))


def _scores(
    encoded: Sequence[Encoded],
    logp: torch.Tensor,
    batch: Batch,
    scoring: Scoring,
    null: Mapping[NullKey, Sequence[float]],
) -> list[torch.Tensor]:
    """fp64 [options] of each example of a batch."""
    scores = option_scores(logp, batch, mean=scoring in ("mean", "pmi")).cpu().split([e.n_options for e in encoded])
    return [_scored(each.double(), e, scoring, null) for each, e in zip(scores, encoded)]


def _scored(
    scores: torch.Tensor, encoded: Encoded, scoring: Scoring, null: Mapping[NullKey, Sequence[float]]
) -> torch.Tensor:
    if scoring == "characters":  # of the answer without the space before it, as the field counts them
        return scores / torch.tensor([float(len(answer.strip())) for answer in encoded.example.answers])
    if scoring in NULLED:
        return scores - torch.tensor(null[null_key(encoded.example)], dtype=torch.float64)
    return scores


def null_scores(
    scorer: Scorer,
    examples: Sequence[Example],
    tokenizer: Any,
    max_length: int | None,
    batch_size: int,
    scoring: Scoring = "calibrated",
    ranks: Ranks = ALONE,
) -> dict[NullKey, tuple[float, ...]]:
    """{null_key: each option's score, as `scoring` takes it, after the prompt without its input}."""
    kinds = null_examples(examples, scoring)
    rows = tokenize_all(tokenizer, list(kinds.values()), max_length, "options", False, True)
    scores = option_scores_of(scorer, rows, batch_size, "mean" if scoring == "pmi" else "sum", ranks=ranks)
    return {key: tuple(each.tolist()) for key, each in zip(kinds, scores)}


def as_rows(evaluation: Evaluation, encoded: Sequence[Encoded]) -> list[dict[str, Any]]:
    """The lines of predictions.jsonl. `prediction` is the label's name, or the option's text where rows have options of
    their own; it and `predicted`, its place, are None for an example without a prediction."""
    rows = []
    for prediction, example in zip(evaluation.predictions, (e.example for e in encoded)):
        predicted, gold = prediction.predicted, prediction.gold
        row = {"id": prediction.id, "prompt": example.prompt, "answers": list(example.answers), "gold": list(gold)}
        if example.unanswered:
            row |= {"answers": [], "gold": []}
        if example.source is not None and example.reference is None:
            row |= {"generated": list(prediction.texts), **(prediction.measures or {})}
        elif example.reference is None:
            option = None if predicted == NONE else predicted
            names = evaluation.labels if len(evaluation.labels) == len(example.answers) else example.answers
            row |= {"predicted": option, "prediction": None if option is None else names[option].strip()}
            row |= {"correct": predicted in gold, "scores": list(prediction.scores)}
        else:
            row |= {"reference": example.reference, "generated": list(prediction.texts), **(prediction.measures or {})}
        rows.append(row if example.unanswered else row | {"loss": prediction.loss})
    return rows
