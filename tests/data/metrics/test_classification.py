"""Metrics over option indices and the report of a classification, by hand and against scikit-learn."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zofo.data.metrics import METRICS, accuracy, macro_f1, report

ZERO: dict[str, Any] = {"zero_division": 0}  # scikit-learn declares it a string


@st.composite
def classifications(draw: st.DrawFn) -> tuple[int, list[int], list[int]]:
    n = draw(st.integers(1, 6))
    pairs = draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), min_size=1, max_size=40))
    return n, [g for g, _ in pairs], [p for _, p in pairs]


@settings(deadline=None)
@given(classifications())
def test_report_is_that_of_scikit_learn(case: tuple[int, list[int], list[int]]) -> None:
    from sklearn import metrics as sk  # a second, and only here

    n, gold, predicted = case
    labels = [f"label {i}" for i in range(n)]
    got = report([[g] for g in gold], predicted, labels)
    assert got["labels"] == labels
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # scikit-learn on a single class
        assert got["confusion"] == sk.confusion_matrix(gold, predicted, labels=range(n)).tolist()
        theirs = sk.classification_report(
            gold, predicted, labels=range(n), target_names=labels, output_dict=True, **ZERO
        )
        assert isinstance(theirs, dict)
        for label in labels:
            for ours, name in [("precision",) * 2, ("recall",) * 2, ("f1", "f1-score"), ("support",) * 2]:
                assert got["classes"][label][ours] == pytest.approx(theirs[label][name], abs=1e-12)
        assert got["accuracy"] == pytest.approx(sk.accuracy_score(gold, predicted))
        assert got["macro_f1"] == pytest.approx(sk.f1_score(gold, predicted, average="macro", **ZERO))


def test_report_by_hand() -> None:
    gold, predicted = [[0], [0], [0], [1], [1]], [0, 0, 1, 1, 0]
    got = report(gold, predicted, ["no", "yes", "maybe"])
    assert got["confusion"] == [[2, 1, 0], [1, 1, 0], [0, 0, 0]]
    # "no" is right twice, named three times, wanted three times; "yes" once, twice, twice
    assert got["classes"]["no"] == {"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "support": 3}
    assert got["classes"]["yes"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}
    assert got["classes"]["maybe"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    assert got["accuracy"] == 0.6
    assert got["macro_f1"] == pytest.approx((2 / 3 + 0.5) / 2)  # "maybe" does not occur


def test_report_refuses_what_it_cannot_tell() -> None:
    with pytest.raises(ValueError, match="must differ"):
        report([[0]], [0], ["a", "a"])
    with pytest.raises(ValueError, match="exactly one"):
        report([[0, 1]], [0], ["a", "b"])
    with pytest.raises(ValueError, match="zip"):
        report([[0]], [0, 1], ["a", "b"])


def test_accuracy_takes_any_right_answer() -> None:
    assert accuracy([[0, 2], [1]], [2, 0]) == 0.5
    assert set(METRICS) == {"accuracy", "macro_f1"}


def test_macro_f1_by_hand() -> None:
    # class 0: TP 1, FP 0, FN 1 -> 2/3; class 1: TP 1, FP 1, FN 0 -> 2/3; class 2 is never right: FP 1, FN 1 -> 0
    assert macro_f1([[0], [0], [1], [2]], [0, 2, 1, 1]) == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
