"""Problem: everything a method is given. A method holds the order of the updates; devices, files and logs are below."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from zofo.errors import NonFiniteError, during
from zofo.methods._nonfinite import Refusals
from zofo.zo.keys import derive
from zofo.zo.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from zofo.data.batch import Batch
    from zofo.methods._first_order import Descent, Kind
    from zofo.models.adapters._set import AdapterSet
    from zofo.objectives._loss import Loss
    from zofo.zo.estimators import _base as estimators
    from zofo.zo.journalled import Journalled
    from zofo.zo.masks import _base as masks
    from zofo.zo.point import Point

Metrics = dict[str, float]


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
    estimator: estimators.Base | None = None
    rule: Journalled | None = None
    mask: masks.Base | None = None  # which weights of theta move
    max_grad_norm: float | None = None
    refusals: Refusals = field(default_factory=Refusals)  # of updates that are not finite
    tasks: tuple[str, ...] = ()  # of a setting: those that are trained on
    among: Callable[[Sequence[str], object], None] = lambda tasks, round: None  # batches are of these tasks from now on
    metric: Loss | None = None  # the loss with minus the task's metric as its objective
    ranks: Ranks = ALONE  # those that make the run together
    descents: list[Descent] = field(default_factory=list)

    @property
    def schedule(self) -> Schedule | None:
        """What `rate` is in a run of the library."""
        return self.rate if isinstance(self.rate, Schedule) else None

    def lr(self, level: str, rate: float, step: int) -> float:
        """A rate of this level at counted step `step`: by the schedule, halved as often as the level's rates were."""
        return self.rate(rate, step) * self.refusals.factor(level)

    def key(self, purpose: str, step: int) -> int:
        """The 64-bit key of one draw."""
        return derive(self.seed, purpose, step)

    def objective(self, stream: Iterator[Batch]) -> OnBatch:
        """F on the stream's next batch."""
        return OnBatch(self.loss, stream)

    def descent(self, name: str, kind: Kind) -> Descent:
        """A first-order optimizer for one adapter of the set, or for "theta"."""
        from zofo.methods._first_order import Descent

        if name == "theta":
            params = self.theta.params
        else:
            assert self.adapters is not None
            params = self.adapters.parameters(name)
        self.descents.append(Descent(params, kind, self.max_grad_norm, self.ranks))
        return self.descents[-1]

    @contextmanager
    def update(self, level: str) -> Iterator[None]:
        """One update of a level ("lower", "upper") as a whole: a NonFiniteError inside leaves nothing behind, and ends
        here unless the refusals' policy is to stop."""
        losses = [loss for loss in (self.loss, self.metric) if loss is not None]
        for loss in losses:
            loss.nonfinite = ""
        try:
            with during(f"the {level} update"):
                yield
        except NonFiniteError as error:
            for descent in self.descents:
                descent.drop()
            seen = next((f" ({loss.nonfinite})" for loss in losses if loss.nonfinite), "")
            if self.refusals.refused(level, f"{level} update: {error}{seen}"):
                raise NonFiniteError(self.refusals.last) from error
        else:
            self.refusals.made(level)
