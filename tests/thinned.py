"""Sweeps of which a part is enough for every run of the suite; the rest is for `make test-slow`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest


def latin(*factors: Sequence[Any], label: Callable[..., str] | None = None) -> list[Any]:
    """All combinations; unmarked are those of a Latin square, in which any two values of two factors still meet.

    Of three factors and more, the share of one in as many as the shortest has values.
    """
    shortest = min(len(factor) for factor in factors)
    rows = []
    for places in itertools.product(*(range(len(factor)) for factor in factors)):
        row = [factor[place] for factor, place in zip(factors, places, strict=True)]
        marks = () if sum(places) % shortest == 0 else pytest.mark.slow
        rows.append(pytest.param(*row, marks=marks, id=label(*row) if label else None))
    return rows
