"""Intervals and tests on numbers whose answers are known from textbooks, tables or by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from zofo.study.statistics import holm, over_examples, over_seeds, proportion


def test_students_interval() -> None:
    """Of 1 ... 5: mean 3, standard error sqrt(.5), t(.975, 4) = 2.7764."""
    found = over_seeds([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.mean == 3
    assert (found.low, found.high) == (
        pytest.approx(3 - 2.7764451 * 0.5**0.5),
        pytest.approx(3 + 2.7764451 * 0.5**0.5),
    )
    assert found.p == pytest.approx(0.0132, abs=1e-4)  # t = 4.2426
    assert not found.within_noise


def test_of_one_value_nothing_is_known() -> None:
    one = over_seeds([0.3])
    assert (one.mean, one.known, one.within_noise) == (0.3, False, True)
    same = over_seeds([0.0, 0.0, 0.0])
    assert (same.low, same.high, same.p, same.within_noise) == (0, 0, 1, True)


def test_the_bootstrap_of_differences() -> None:
    """Of 100 examples 30 better and 10 worse: mean .2, sd of the mean sqrt(.4 - .04)/10 = .06."""
    found = over_examples([1.0] * 30 + [-1.0] * 10 + [0.0] * 60)
    assert found.mean == pytest.approx(0.2)
    assert found.low == pytest.approx(0.2 - 1.96 * 0.06, abs=0.012)
    assert found.high == pytest.approx(0.2 + 1.96 * 0.06, abs=0.012)
    assert 0.0001 < found.p < 0.004
    assert over_examples([1.0] * 12 + [-1.0] * 10).within_noise
    assert over_examples([0.0] * 9).p == 1
    assert over_examples([1.0]).within_noise
    draw = np.random.default_rng(0)
    holds = [over_examples(list(draw.normal(0.3, 1, 30).round(1)), seed) for seed in range(60)]
    assert 0.85 < np.mean([one.low <= 0.3 <= one.high for one in holds]) < 1


def test_wilson() -> None:
    """Newcombe 1998, table I: 81 of 263 gives .2553 to .3662."""
    low, high = proportion(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert proportion(0, 20)[0] == 0


def test_holm() -> None:
    """p of .01, .04, .03: times 3, 1, 2, never falling: .03, .06, .06."""
    found = holm({("a",): 0.01, ("b",): 0.04, ("c",): 0.03, ("d",): math.nan})
    assert {key[0]: pytest.approx(value) for key, value in found.items() if key != ("d",)} == {
        "a": 0.03,
        "b": 0.06,
        "c": 0.06,
    }
    assert math.isnan(found["d",])
