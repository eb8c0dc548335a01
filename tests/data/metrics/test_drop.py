"""DROP's metrics by hand from the paper's definitions, and the alignment of spans against all assignments."""

from __future__ import annotations

import itertools
import time
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zofo.data.metrics import drop
from zofo.data.metrics.text import drop_exact_match, drop_f1


@pytest.mark.parametrize(
    ("text", "reference", "em", "f1"),
    [
        ("5.0", [["5"]], 1, 1),
        ("$5", [["5.00"]], 1, 1),
        ("1,000", [["1000"]], 1, 1),
        ("the Tom-Brady", [["tom brady"]], 1, 1),  # hyphens cut, articles go
        ("5 yards", [["5"]], 0, 0.67),  # precision 1/2, recall 1: 2/3, to two digits
        ("6 yards", [["5 yards"]], 0, 0),  # the right number is missing
        ("3 yards", [["from 3 to 5 yards"]], 0, 0.57),  # one of its numbers is enough
        ("5 yards", [["yards"]], 0, 0.67),  # a number too many is only a word too many
        ("Brady", [["Tom Brady", "Moss"]], 0, 0.33),  # (2/3 + 0) / 2
        ("Brady", [["Moss"], ["Brady"]], 1, 1),  # the better annotator
        ("Brady Brady", [["Brady"]], 0, 1),  # sets of words; the exact match is of the whole span
        ("5.5,", [["55"]], 1, 1),  # not a number until its punctuation is gone, as published
        ("Brady", "brady", 1, 1),
        ("Brady", [], 0, 0),
        ("", [[""]], 0, 0),  # blank answers do not count
    ],
)
def test_drop_by_hand(text: str, reference: Any, em: float, f1: float) -> None:
    assert drop_exact_match(text, reference) == em
    assert drop_f1(text, reference) == f1


def test_drop_from_the_hub() -> None:
    """The hub pools a validation row's annotators: numbers and dates are answers, the spans are one, each once."""
    assert drop_f1("3", {"spans": ["3", "4", "3"], "types": ["number"] * 3}) == 1
    assert drop_f1("4", {"spans": ["3", "4"], "types": ["number", "span"]}) == 1
    assert drop_f1("Brady", {"spans": ["Brady", "Brady"], "types": ["span"] * 2}) == 1
    assert drop_f1("Brady", {"spans": ["Brady", "Moss"], "types": ["span"] * 2}) == 0.5
    assert drop_f1("3", {"spans": ["3", "4"]}) == 0.5  # without types one answer


def test_drop_aligns_spans_for_the_best_total() -> None:
    # x y z may take x y (4/5), which leaves y - x y z w (2/5); better is x y z - x y z w (6/7) with y - x y (2/3)
    words = ["x y z", "y"], ["x y", "x y z w"]
    assert drop.compare(*words) == (0.0, round(float((Fraction(6, 7) + Fraction(2, 3)) / 2), 2))
    assert drop.compare(["x", "y x"], ["x y", "x"]) == (0.0, 1.0)  # sets of words are equal, the spans are not
    assert drop.compare(["x", "y"], ["y", "x"]) == (1.0, 1.0)
    assert drop.compare(["x", "x"], ["x"]) == (0.0, 0.5)


@settings(deadline=None)
@given(
    st.integers(1, 5).flatmap(
        lambda n: st.lists(st.lists(st.integers(0, 6), min_size=n, max_size=n), min_size=1, max_size=5)
    )
)
def test_best_total_is_that_of_all_assignments(scores: list[list[int]]) -> None:
    rows = [[Fraction(x, 7) for x in row] for row in scores]
    wide = rows if len(rows) <= len(rows[0]) else list(zip(*rows))
    ways = itertools.permutations(range(len(wide[0])), len(wide))
    assert drop.best_total(rows) == max(sum(row[c] for row, c in zip(wide, way)) for way in ways)


def test_many_spans_are_aligned_quickly() -> None:
    start = time.process_time()
    spans = [f"w{i} w{i + 1} w{i * i}" for i in range(60)]
    assert drop.compare(spans, spans[::-1]) == (1.0, 1.0)
    assert time.process_time() - start < 10
