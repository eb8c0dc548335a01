"""Problem: everything a method is given. A method holds the order of the updates; devices, files and logs are below."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from zofo.errors import NonFiniteError
from zofo.zo.grad import ZOGrad, float32
from zofo.zo.journal import Outcome, Record
from zofo.zo.keys import derive

if TYPE_CHECKING:
    from zofo.adapters._set import AdapterSet
    from zofo.data import Batch
    from zofo.first_order import Descent
    from zofo.objective import Loss
    from zofo.zo.direction import Direction
    from zofo.zo.journal import Journal
    from zofo.zo.point import Point

Metrics = dict[str, float]


class Estimator(Protocol):
    """An objective and a seed -> a zeroth-order gradient. See `estimators._base.Base`."""

    config: Any
    mask: Any
    keeps: ClassVar[str]

    def __call__(self, f: Callable[[], float], theta: Point, step: int, seed: int) -> ZOGrad: ...
    def direction(self, theta: Point, step: int, seed: int) -> Direction: ...
    def host_bytes(self, theta: Point) -> float: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Rule(Protocol):
    """A zeroth-order gradient -> a move of theta. `bytes_per_weight`: what its state costs."""

    @property
    def bytes_per_weight(self) -> float: ...

    def update_(
        self, theta: Point, g: ZOGrad, lr: float, step: int,
        f: Callable[[], float] | None = None, outcome: Outcome | None = None,
    ) -> Outcome: ...  # fmt: skip
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Journalled:
    """A rule whose every update is written down. The estimate is checked here, before theta moves."""

    def __init__(self, rule: Rule, journal: Journal | None) -> None:
        self.rule, self.journal = rule, journal
        self.seconds = math.inf  # of the fastest update

    def update_(self, theta: Point, g: ZOGrad, lr: float, step: int, f: Callable[[], float] | None = None) -> Outcome:
        """Raises NonFiniteError, with theta as it was, when a coefficient is not finite."""
        if not g.terms or any(c != float32(c) for c, _ in g.terms if math.isfinite(float32(c))):
            raise ValueError("an estimate has at least one term, and fp32 coefficients: the journal keeps no others")
        bad = [c for c, _ in g.terms if not (math.isfinite(c) and math.isfinite(float32(lr * c)))]
        start, outcome = time.perf_counter(), Outcome.SKIPPED
        if bad:
            theta.settle()
        else:
            outcome = self.rule.update_(theta, g, lr, step, f)
            self.seconds = min(self.seconds, time.perf_counter() - start)
        if self.journal is not None:
            terms = tuple((z.seed, c) for c, z in g.terms)
            self.journal.append(Record(step, terms, lr, outcome))
        if bad:
            raise NonFiniteError(f"the estimate's coefficient is {bad[0]}, at a rate of {lr:g}")
        return outcome


class OnBatch:
    """F as a function of theta alone: on the next batch of a stream, which it draws once."""

    def __init__(self, loss: Loss, stream: Iterator[Batch]) -> None:
        self.loss, self.stream, self.batch = loss, stream, next(stream)

    def __call__(self) -> float:
        return self.loss(self.batch)

    def further(self) -> OnBatch:
        """The same on the stream's next batch."""
        return OnBatch(self.loss, self.stream)


@dataclass
class Schedule:
    """A rate's factor over the counted steps: constant, linear to 0 or cosine to 0, after a linear warm-up."""

    kind: str
    total: int
    warmup: int = 0

    def __call__(self, rate: float, step: int) -> float:
        """The rate at counted step `step` (from 0)."""
        if step < self.warmup:
            return rate * (step + 1) / self.warmup
        if self.kind == "constant":
            return rate
        done = (step - self.warmup) / max(1, self.total - self.warmup)
        return rate * (1 - done if self.kind == "linear" else 0.5 * (1 + math.cos(math.pi * done)))


@dataclass
class Problem:
    """theta, the adapters, the loss F, the streams of training batches and the keys of every draw."""

    theta: Point
    adapters: AdapterSet | None
    loss: Loss
    streams: Mapping[str, Iterator[Batch]]
    seed: int
    rate: Callable[[float, int], float] = lambda rate, step: rate
    total: int = 0  # counted steps of the run, max_steps
    count: str = "all"  # or "outer": only upper-level iterations count
    estimator: Estimator | None = None
    rule: Journalled | None = None
    mask: Any = None  # which weights of theta move, a `masks._base.Base`
    max_grad_norm: float | None = None
    skip_nonfinite: bool = False
    tasks: tuple[str, ...] = ()  # of a setting: those that are trained on
    among: Callable[[Sequence[str], object], None] = lambda tasks, round: None  # batches are of these tasks from now on
    metric: Loss | None = None  # the loss with minus the task's metric as its objective
    gradients: Callable[[int], Iterator[Callable[[], object]]] = lambda number: iter(())  # for masks, see `session`
    skipped: int = 0
    descents: list[Descent] = field(default_factory=list)

    def key(self, purpose: str, step: int) -> int:
        """The 64-bit key of one draw."""
        return derive(self.seed, purpose, step)

    def objective(self, stream: Iterator[Batch]) -> OnBatch:
        """F on the stream's next batch."""
        return OnBatch(self.loss, stream)

    def descent(self, name: str, kind: Any) -> Descent:
        """A first-order optimizer for one adapter of the set, or for "theta"."""
        from zofo.first_order import Descent

        if name == "theta":
            params = self.theta.params
        else:
            assert self.adapters is not None
            params = self.adapters.parameters(name)
        self.descents.append(Descent(params, kind, self.max_grad_norm))
        return self.descents[-1]

    @contextmanager
    def update(self) -> Iterator[None]:
        """One update as a whole: a NonFiniteError inside leaves nothing behind; with skipping on it ends here."""
        try:
            yield
        except NonFiniteError:
            for descent in self.descents:
                descent.drop()
            self.skipped += 1
            if not self.skip_nonfinite:
                raise
