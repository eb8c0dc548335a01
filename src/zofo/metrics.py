"""Metrics: plain functions of right answers and predictions, as numbers between 0 and 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def accuracy(gold: Sequence[Sequence[int]], predicted: Sequence[int]) -> float:
    """Share of examples whose prediction is one of the right answers."""
    return sum(p in g for g, p in zip(gold, predicted)) / len(predicted)


def macro_f1(gold: Sequence[Sequence[int]], predicted: Sequence[int]) -> float:
    """Mean over the classes that occur of 2 TP / (2 TP + FP + FN), for examples with one right answer."""
    first = [g[0] for g in gold]
    scores = []
    for label in sorted({*first, *predicted}):
        hit = sum(g == label == p for g, p in zip(first, predicted))
        wrong = sum((g == label) != (p == label) for g, p in zip(first, predicted))
        scores.append(2 * hit / (2 * hit + wrong))
    return sum(scores) / len(scores)


METRICS: dict[str, Callable[[Sequence[Sequence[int]], Sequence[int]], float]] = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
}
