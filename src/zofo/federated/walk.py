"""A client's steps between two rounds: theta + sum of the steps, as an estimator sees it, while theta is left alone.

The terms of the steps so far are added whenever a weight is read, in one pass with those of the shift, so a client
needs no second copy of theta, and no rounding is undone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from zofo.errors import NonFiniteError
from zofo.methods._problem import Problem
from zofo.zo.direction import Direction
from zofo.zo.estimators import _base
from zofo.zo.grad import ZOGrad, float32
from zofo.zo.journal import Outcome
from zofo.zo.journalled import Journalled

if TYPE_CHECKING:
    from zofo.zo.low_rank import LowRank
    from zofo.zo.point import Point

Value = TypeVar("Value")


class Walk:
    """The local steps of one round. `c`: their coefficients so far, in order."""

    def __init__(self, theta: Point) -> None:
        self.theta, self.c = theta, list[float]()
        self._steps: tuple[tuple[float, Direction], ...] = ()
        self._inside = False

    def begin(self) -> None:
        """Back at theta."""
        self.c, self._steps = [], ()

    def go(self, g: ZOGrad, lr: float) -> None:
        """One step: what the rule `sgd` would add to theta."""
        self.c += [c for c, _ in g.terms]
        self._steps += tuple((float32(-lr * c), z) for c, z in g.terms)

    @contextmanager
    def shifted(self, z: Direction, scale: float, rounding: str = "stochastic") -> Iterator[None]:
        """As `Point.shifted`, from where the steps have led."""
        with self._at((*self._steps, (scale, z)), z, rounding):
            yield

    def sides(self, f: Callable[[], Value], z: Direction, eps: float, rounding: str) -> tuple[Value, Value]:
        """As `Point.sides`, likewise."""
        if not self._steps:
            return self.theta.sides(f, z, eps, rounding)
        with self.shifted(z, +eps, rounding):
            plus = f()
        with self.shifted(z, -eps, rounding):
            return plus, f()

    def here(self, f: Callable[[], Value], rounding: str) -> Callable[[], Value]:
        """f where the steps have led; inside a shift, f there."""

        def at() -> Value:
            if not self._steps or self._inside:
                return f()
            with self._at(self._steps, self._steps[0][1], rounding):
                return f()

        return at

    @contextmanager
    def _at(self, terms: tuple[tuple[float, Direction], ...], z: Direction, rounding: str) -> Iterator[None]:
        key = z.rounding_seed if rounding == "stochastic" else None
        self._inside = True
        try:
            with self.theta.shifted(ZOGrad(terms, 0.0, 0), 1.0, key):
                yield
        finally:
            self._inside = False


class Walking(_base.Base):
    """An estimator where the steps of a walk have led."""

    def __init__(self, estimator: _base.Base, walk: Walk) -> None:
        super().__init__(estimator.config, estimator.seed, estimator.mask, estimator.ranks)
        self.estimator, self.walk = estimator, walk

    def law(self, step: int) -> str | LowRank:
        return self.estimator.law(step)

    def __call__(self, f: Callable[[], float], theta: Point, step: int, seed: int) -> ZOGrad:
        at: Any = self.walk
        return self.estimator(self.walk.here(f, self.config.rounding), at, step, seed)


class Told(Journalled):
    """What stands in the rule's place with a client: theta is left alone, and the coefficients go to the server."""

    def __init__(self, journalled: Journalled, walk: Walk) -> None:
        super().__init__(journalled.rule, None, journalled.ranks)
        self.walk = walk

    def update_(self, theta: Point, g: ZOGrad, lr: float, step: int, f: Callable[[], float] | None = None) -> Outcome:
        """Raises NonFiniteError for a coefficient that is not finite, or whose step is not."""
        del theta, step, f
        for c, _ in g.terms:
            if not math.isfinite(c) or not math.isfinite(float32(lr * c)):
                raise NonFiniteError(f"the estimate's coefficient is {c:.3g}")
        self.walk.go(g, lr)
        return Outcome.APPLIED


@dataclass(kw_only=True)
class Asked(Problem):
    """A method's problem with a client: directions are the round's, updates are answers. seed_of: of the direction that
    the round has next, see `Mode.seed`."""

    seed_of: Callable[[], int]
    walk: Walk

    @classmethod
    def made(cls, seed_of: Callable[[], int]) -> Callable[..., Asked]:
        """What `train.setup.build` takes as `made`."""

        def make(theta: Point, *args: Any, estimator: Any, rule: Any, **rest: Any) -> Asked:
            walk = Walk(theta)
            parts = {"estimator": Walking(estimator, walk), "rule": Told(rule, walk)}
            return cls(theta, *args, **parts, seed_of=seed_of, walk=walk, **rest)

        return make

    def key(self, purpose: str, step: int) -> int:
        return self.seed_of() if purpose == "z" else super().key(purpose, step)
