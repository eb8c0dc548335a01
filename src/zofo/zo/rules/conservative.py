"""Conservative ZO-SGD: the best of theta - lr g, theta + lr g and theta (ZO-SGD-Cons, Zhang et al., arXiv 2402.11592).

Three more evaluations of the objective a step, on the batch of the estimate, each at the point as it would be written,
rounding and all. Ties go to the estimate's direction, then to staying. The journal keeps which one it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zofo.errors import NonFiniteError
from zofo.zo.journal import Outcome
from zofo.zo.rules._base import Base, Rounded

if TYPE_CHECKING:
    from zofo.zo.grad import ZOGrad
    from zofo.zo.point import Point


@dataclass(frozen=True)
class Config(Rounded):
    """Only the rounding."""

    def faults(self, parts: Mapping[str, Any]) -> list[str]:
        if parts["estimator"].shift == "inplace":
            return [
                "rule.name: conservative looks at points that mode inplace would drift from; use estimator.shift=layer"
            ]
        return []


class Rule(Base):
    """No state. 0 extra bytes a weight, 2 with rounding `split`."""

    config: Config
    forwards = 3

    def update_(
        self,
        theta: Point,
        g: ZOGrad,
        lr: float,
        step: int,
        f: Callable[[], float] | None = None,
        outcome: Outcome | None = None,
    ) -> Outcome:
        """Move theta or leave it. f: the objective, needed without `outcome`, which is the journal's, in a replay.

        Raises ValueError where both are missing, NonFiniteError where none of the three losses is finite.
        """
        rounding = self.rounding(theta, step)
        if outcome is None:
            if f is None:
                raise ValueError("the rule conservative compares losses: give f")
            outcome = _best(theta, g, lr, f, rounding)
        if outcome in (Outcome.APPLIED, Outcome.REVERSED):
            theta.add_(g, -lr if outcome is Outcome.APPLIED else lr, *rounding)
        return outcome


def _best(theta: Point, g: ZOGrad, lr: float, f: Callable[[], float], rounding: tuple) -> Outcome:
    values = {}
    for outcome, scale in ((Outcome.APPLIED, -lr), (Outcome.STAYED, 0.0), (Outcome.REVERSED, lr)):
        if outcome is Outcome.STAYED:
            values[outcome] = f()
        else:
            with theta.shifted(g, scale, *rounding):
                values[outcome] = f()
    finite = {outcome: value for outcome, value in values.items() if math.isfinite(value)}
    if not finite:
        raise NonFiniteError(f"the losses that conservative compares are {', '.join(map(str, values.values()))}")
    return min(finite, key=lambda outcome: finite[outcome])
