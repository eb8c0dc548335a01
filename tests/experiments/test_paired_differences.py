"""Differences seed by seed: the interval, and which number of a run is compared."""

from __future__ import annotations

import math

from experiments.paired_differences import interval, last


def test_students_interval() -> None:
    """1, 2, 3: mean 2, standard deviation 1, t = 4.303 with 2 degrees of freedom, over the root of 3."""
    assert interval([1.0, 2.0, 3.0]) == "+2.0000 (-0.4843 to +4.4843)"
    assert interval([-0.5]) == "-0.5000"


def test_the_last_evaluations_best_candidate() -> None:
    curve = [
        {"step": 10, "candidate": "s", "loss": 0.1},
        {"step": 20, "candidate": "s", "loss": 0.4},
        {"step": 20, "candidate": "p", "loss": 0.3},
    ]
    assert last({"dev_curve": curve}) == 0.3
    assert last({"dev_curve": [*curve, {"step": 20, "candidate": "q", "loss": None}]}) == 0.3  # null: not finite
    assert math.isnan(last({"dev_curve": [*curve, {"step": 30, "candidate": "s", "loss": None}]}))
