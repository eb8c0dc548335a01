"""Metrics: plain functions of right answers and predictions, as numbers between 0 and 1; the report of a classifier.

An example without a prediction (NONE: its scores are no numbers) is wrong, and no class of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

NONE = -1  # the prediction of an example whose scores say nothing


def accuracy(gold: Sequence[Sequence[int]], predicted: Sequence[int]) -> float:
    """Share of examples whose prediction is one of the right answers."""
    return sum(p in g for g, p in zip(gold, predicted)) / len(predicted)


def macro_f1(gold: Sequence[Sequence[int]], predicted: Sequence[int]) -> float:
    """Mean over the classes that occur of 2 TP / (2 TP + FP + FN), for examples with one right answer.

    Where a row lists that answer twice, a prediction of either copy is of its class.
    """
    first = one_right(gold, predicted)
    scores = []
    for label in sorted({*first, *predicted} - {NONE}):
        hit = sum(g == label == p for g, p in zip(first, predicted))
        wrong = sum((g == label) != (p == label) for g, p in zip(first, predicted))
        scores.append(2 * hit / (2 * hit + wrong))
    return sum(scores) / len(scores)


def one_right(gold: Sequence[Sequence[int]], predicted: Sequence[int]) -> list[int]:
    """The right option of each example: the predicted one where it is right, else the first that is."""
    return [p if p in g else g[0] for g, p in zip(gold, predicted)]


METRICS: dict[str, Callable[[Sequence[Sequence[int]], Sequence[int]], float]] = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
}


def report(gold: Sequence[Sequence[int]], predicted: Sequence[int], labels: Sequence[str]) -> dict[str, Any]:
    """What a classifier confuses, for examples with one right answer and one set of labels (option i is labels[i]).

    confusion: a row for each right label, a column for each predicted one. classes: precision, recall, F1 and support
    (the row's sum) of every label, 0 where nothing is to be divided; scikit-learn's `classification_report` with
    zero_division=0. macro_f1 is the mean over the labels that occur as right answer or prediction, as above.
    unpredicted, where there are any: of each right label, the examples without a prediction; its support counts them.
    """
    if len(set(labels)) < len(labels):
        raise ValueError(f"the labels must differ: {list(labels)}")
    if any(len(g) != 1 for g in gold):
        raise ValueError("a report needs exactly one right answer an example")
    confusion, unpredicted = [[0] * len(labels) for _ in labels], [0] * len(labels)
    for g, p in zip(gold, predicted, strict=True):
        if p == NONE:
            unpredicted[g[0]] += 1
        else:
            confusion[g[0]][p] += 1
    classes = {}
    for i, label in enumerate(labels):
        hit, support, named = confusion[i][i], sum(confusion[i]) + unpredicted[i], sum(row[i] for row in confusion)
        classes[label] = {
            "precision": hit / named if named else 0.0,
            "recall": hit / support if support else 0.0,
            "f1": 2 * hit / (support + named) if support + named else 0.0,
            "support": support,
        }
    return {
        "labels": list(labels),
        "confusion": confusion,
        "classes": classes,
        "accuracy": accuracy(gold, predicted),
        "macro_f1": macro_f1(gold, predicted),
        **({"unpredicted": unpredicted} if any(unpredicted) else {}),
    }
