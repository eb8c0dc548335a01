"""A zeroth-order gradient as its terms: what is logged of it, and what cannot be one."""

from __future__ import annotations

import pytest

from zofo.zo.direction import Direction
from zofo.zo.grad import ZOGrad


@pytest.mark.parametrize(("cs", "logged"), [((3.0,), 3.0), ((0.0, -2.0, 1.0), -2.0), ((0.0, 0.0), 0.0)])
def test_the_logged_coefficient_is_one_that_counts(cs: tuple[float, ...], logged: float) -> None:
    """A direction that was shifted along and does not count has 0: that is no sign of an estimate that fails."""
    assert ZOGrad(tuple((c, Direction(i)) for i, c in enumerate(cs)), 0.0, 2).c == logged
