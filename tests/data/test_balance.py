"""Numbers that are a score, and labels of which an accuracy hides the rare ones: asked about and said, else silence."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_rows
from tests.loading import error, task
from zofo.data import load_task
from zofo.data.balance import imbalance
from zofo.data.example import Example

WORDS = "different numbers"


def rows(labels: Sequence[Any]) -> list[dict[str, Any]]:
    return [{"text": f"film {i}: it was", "label": label} for i, label in enumerate(labels)]


SCORES = {
    "fractions, few of each": [i / 8 for i in range(40) for _ in range(5)],
    "fractions of one row each": [i * 1.37 + 0.1 for i in range(60)],
    "negative fractions": [i / 4 - 3 for i in range(24)] * 3,
    "whole, hardly one twice": [17 * i % 101 for i in range(60)],
    "whole, with gaps": [7 * (i % 31) for i in range(200)],
    "more than there can be labels": [float(i) + 0.5 for i in range(250)],
    "stars with halves": [i / 2 for i in range(1, 12)] * 20,
}
CLASSES = {
    "stars": [1 + i % 5 for i in range(60)],
    "ten numbers with halves": [i % 10 / 2 for i in range(100)],
    "ids from 0": [i % 77 for i in range(400)],
    "ids from 1": [1 + i % 40 for i in range(400)],
    "up to twenty, with gaps": [i % 13 * 3 for i in range(200)],
    "one number among words": [*("good", "bad") * 30, "3.5", "3.5"],
}


@pytest.mark.parametrize("form", ["json", "csv"])
@pytest.mark.parametrize("name", SCORES)
def test_a_score_is_asked_about(name: str, form: str, tmp_path: Path) -> None:
    path = _written(tmp_path, form, SCORES[name])
    said = error(task(path), 0)
    assert said.startswith(f"{path.name}: the label column has {len(set(SCORES[name]))} {WORDS} (")
    assert said.endswith("or, if each is a class, give task.numbers_are_classes=true")
    if len(set(SCORES[name])) <= 200:
        data = load_task(task(path, numbers_are_classes=True), 0)
        assert len(data.labels) == len(set(SCORES[name]))


@pytest.mark.parametrize("form", ["json", "csv"])
@pytest.mark.parametrize("name", CLASSES)
def test_numbers_that_are_classes(name: str, form: str, tmp_path: Path) -> None:
    assert len(load_task(task(_written(tmp_path, form, CLASSES[name])), 0).labels) == len(set(CLASSES[name]))


def _written(folder: Path, form: str, labels: Sequence[Any]) -> Path:
    if form == "json":
        return write_rows(folder / "rows.jsonl", rows(labels))
    path = folder / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows(labels))
    return path


def test_numbers_are_classes_of_nothing_else(tmp_path: Path) -> None:
    chosen = write_rows(tmp_path / "rows.jsonl", rows(["good", "bad"] * 20))
    assert "has no labels that could be numbers; leave it out" in error(
        task(chosen, numbers_are_classes=True, choices=["bad", "good"]), 0
    )
    written = write_rows(tmp_path / "texts.jsonl", [{"prompt": f"a {i}", "completion": " b"} for i in range(40)])
    assert "has no labels that could be numbers" in error(task(written, numbers_are_classes=True), 0)
    assert "is for own files" in "\n".join(task("sst2", numbers_are_classes=True).problems())


def examples(counts: Mapping[str, int]) -> Iterator[Example]:
    for index, count in enumerate(counts.values()):
        yield from (Example(f"{index}/{i}", "it was", tuple(counts), (index,)) for i in range(count))


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"spam": 20, "ham": 180}, '180 of 200 are "ham", and always answering that is 90% right'),
        ({"spam": 3, "ham": 297}, '297 of 300 are "ham", and always answering that is 99% right'),
        ({"bad": 20, "good": 40}, '40 of 60 are "good", and always answering that is 67% right'),
        ({"a": 60, "b": 20, "c": 20}, '60 of 100 are "a", and always answering that is 60% right'),
        ({"a": 96, "b": 96, "c": 8}, '96 of 200 are "a" and 8 "c"'),
        ({"a": 21, "b": 20}, ""),
        ({"a": 39, "b": 21}, ""),
        ({"a": 30, "b": 20, "c": 20}, ""),
        ({"a": 10, "b": 1}, ""),  # too few for a share
        ({"a": 40, "a.": 1, "b": 30}, ""),  # one row may be a slip, and is said as one
        ({"a": 40}, ""),
    ],
)
def test_what_an_accuracy_hides(counts: dict[str, int], words: str) -> None:
    assert imbalance(list(examples(counts)), list(counts)) == words


def test_imbalance_is_said_and_measured(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_rows(tmp_path / "rows.jsonl", rows(["ham"] * 180 + ["spam"] * 20))
    data = load_task(task(path), 0)
    assert data.metrics == ("accuracy", "macro_f1"), "the first one leads"
    n = sum(len(listed) for listed in (data.train, data.dev, data.test))
    assert any(f'of {n} are "ham"' in message for message in caplog.messages)
    assert load_task(task(path, metric="macro_f1"), 0).metrics == ("macro_f1", "accuracy")
    even = write_rows(tmp_path / "even.jsonl", rows(["ham", "spam"] * 50))
    assert load_task(task(even), 0).metrics == ("accuracy",)
