"""What a classifier confuses, beside scikit-learn's numbers."""

from __future__ import annotations

import pytest
from sklearn.metrics import confusion_matrix

from zofo.data.metrics import NONE, report
from zofo.eval.confusion import confusion
from zofo.eval.likelihood import Evaluation


def lines(gold: list[int], predicted: list[int], labels: list[str], metric: str = "macro_f1") -> list[str]:
    found = report([(g,) for g in gold], predicted, labels)
    return list(confusion(Evaluation({"loss": 0.5, metric: 0.5}, [], found)))


GOLD, PREDICTED = [0, 0, 0, 0, 0, 0, 1, 1, 2], [0, 0, 0, 0, 0, 1, 1, 0, 0]


def test_a_table() -> None:
    head, columns, *table = lines(GOLD, PREDICTED, ["ham", "spam", "\u540d\u524d\x1b"])
    assert head == "accuracy 0.667, macro-F1 0.423; right labels in rows, predicted ones in columns:"
    assert columns.split() == ["ham", "spam", "\u540d\u524d\\x1b"]
    expected = confusion_matrix(GOLD, PREDICTED).tolist()
    assert [[int(cell) for cell in line.split()[1:]] for line in table] == expected
    assert "\x1b" not in "".join(table)


def test_nothing_predicted_has_a_column() -> None:
    _, columns, first, second = lines([0, 0, 1], [0, NONE, 1], ["a", "b"])
    assert columns.split() == ["a", "b", "none"]
    assert (first.split(), second.split()) == (["a", "1", "0", "1"], ["b", "0", "1", "0"])


def test_of_many_labels_the_worst() -> None:
    labels = [f"l{i}" for i in range(12)]
    gold = [0] * 9 + [1] * 4 + list(range(12))
    predicted = [3] * 9 + [2] * 4 + [(i + 1) % 12 for i in range(12)]
    (line,) = lines(gold, predicted, labels)
    assert "; most often confused: l0 as l3 (9), l1 as l2 (5), " in line
    assert line.endswith(" and 8 more")
    assert lines(list(range(12)), list(range(12)), labels)[0].endswith("most often confused: nothing")


@pytest.mark.parametrize("metric", ["accuracy", "f1"])
def test_silence_where_labels_are_balanced(metric: str) -> None:
    assert lines(GOLD, PREDICTED, ["a", "b", "c"], metric) == []
