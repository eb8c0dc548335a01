"""A rule whose every update is written down."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from zofo.errors import NonFiniteError
from zofo.zo.grad import ZOGrad, float32
from zofo.zo.journal import Outcome, Record
from zofo.zo.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from zofo.zo.journal import Journal, Records
    from zofo.zo.point import Point
    from zofo.zo.rules import _base


class Journalled:
    """A rule whose every update is written down. The estimate is checked here, before theta moves."""

    def __init__(self, rule: _base.Base, records: Records | Journal | None, ranks: Ranks = ALONE) -> None:
        """records: where the updates are written; None: nowhere. ranks: those that share the directions."""
        self.rule, self.records, self.ranks = rule, records, ranks
        self.seconds = math.inf  # of the fastest update

    def update_(self, theta: Point, g: ZOGrad, lr: float, step: int, f: Callable[[], float] | None = None) -> Outcome:
        """Raises NonFiniteError, with theta as it was, when a coefficient is not finite or beyond what the rule can
        take, or when the rule finds no finite loss."""
        if not g.terms or any(c != float32(c) for c, _ in g.terms if math.isfinite(float32(c))):
            raise ValueError("an estimate has at least one term, and fp32 coefficients: the journal keeps no others")
        start, outcome, refusal = time.perf_counter(), Outcome.SKIPPED, self._refusal(g, lr)
        if refusal is None:
            try:
                # What the rule asks of f is computed by one of those that share the directions: all decide alike
                one = f and (lambda: self.ranks.directions([f], lambda f: (f(),), width=1)[0][0])
                outcome = self.rule.update_(theta, g, lr, step, one)
                self.seconds = min(self.seconds, time.perf_counter() - start)
            except NonFiniteError as error:
                refusal = error
        if refusal is not None:
            theta.settle()
        if self.records is not None:
            terms = tuple((z.seed, c) for c, z in g.terms)
            self.records.append(Record(step, terms, lr, outcome))
        if refusal is not None:
            raise refusal
        return outcome

    def _refusal(self, g: ZOGrad, lr: float) -> NonFiniteError | None:
        """Why theta must not move along this estimate."""
        for c, _ in g.terms:
            if not math.isfinite(c):
                return NonFiniteError(f"the estimate's coefficient is {c}")
            if not math.isfinite(float32(lr * c)):
                return NonFiniteError(f"the estimate's coefficient {c:.3g} overflows at a rate of {lr:g}")
            if abs(c) > self.rule.largest:
                return NonFiniteError(f"the estimate's coefficient {c:.3g} overflows in the rule's squares")
        return None
