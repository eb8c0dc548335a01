"""What masks share: when a support is made, and how many weights it has."""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from zofo.zo.support import Support, count

if TYPE_CHECKING:
    from zofo.zo.point import Point

log = logging.getLogger("zofo")

Gradients = Callable[[int], Iterable[Callable[[], object]]]


@dataclass(frozen=True)
class MaskConfig:
    by_gradients: ClassVar[bool] = False  # whether a gradient of every weight is taken
    by_magnitude: ClassVar[bool] = False  # whether which weights move is read off theta in each step

    @property
    def renewed(self) -> int | None:
        """Steps between two supports; None: one for the whole run."""
        return None


@dataclass(frozen=True)
class Share(MaskConfig):
    """A share of the weights, by the part that rests or by the part that moves."""

    sparsity: float | None = field(
        default=None,
        metadata={"help": "share of the weights that rest", "paper": "Figure 4: 0.75", "ge": 0, "lt": 1},
    )
    density: float | None = field(default=None, metadata={"help": "the same as 1 - density", "gt": 0, "le": 1})
    rescale: bool = field(default=False, metadata={"help": "multiply z by 1 / sqrt(density)"})

    usual: ClassVar[float] = 0.25

    @property
    def moving(self) -> float:
        """The share that moves."""
        if self.density is not None:
            return self.density
        return self.usual if self.sparsity is None else 1 - self.sparsity

    def problems(self) -> list[str]:
        if self.sparsity is not None and self.density is not None and abs(self.sparsity + self.density - 1) > 1e-9:
            return [
                f"density: {self.density:g} and a sparsity of {self.sparsity:g} do not add up to 1; give one of them"
            ]
        return []


class Base(ABC):
    """The support of the directions of each step, made anew every `refresh` steps or once.

    recorded: it depends on theta or on data, so the journal keeps it; otherwise the step alone gives it again.
    """

    recorded: ClassVar[bool] = True

    def __init__(
        self,
        config: Any,
        seed: int,
        gradients: Gradients | None = None,
        listen: Callable[[int, Support], None] | None = None,
    ) -> None:
        """seed: the run's seed. gradients: `number` calls, each of which adds F's gradient on one training batch to
        `.grad` of theta's tensors, for masks that are made of them. listen: told each recorded support, with the step
        from which it holds."""
        self.config, self.seed, self.gradients = config, seed, gradients
        self.start: int | None = None  # the step from which the support holds
        self.now: Support | None = None
        self.seconds = 0.0  # of making the last one
        self.listen = listen
        self._words = ""

    @property
    def every(self) -> int | None:
        return self.config.renewed

    @abstractmethod
    def make(self, theta: Point, step: int) -> Support:
        """The support from this step on. Raises InputError where it would be of no use."""

    def _start(self, step: int) -> int:
        """The step from which the support of this step holds."""
        return step - step % self.every if self.every else 0

    def known(self, theta: Point, step: int) -> Support | None:
        """The support of this step to look at, beside a run: none is made that hangs on theta or data when it is made,
        and nothing is recorded or said. None: it has not been made."""
        start = self._start(step)
        if self.now is not None and start == self.start:
            return self.now
        return None if self.recorded else self.make(theta, start)

    def at(self, theta: Point, step: int) -> Support:
        """The support of this step."""
        start = self._start(step)
        if self.now is None or start != self.start:
            begun = time.perf_counter()
            self.start, self.now = start, self.make(theta, start)
            self.seconds = time.perf_counter() - begun
            if self.recorded and self.listen is not None:
                self.listen(start, self.now)
            if start == 0 or self.recorded:
                self._words = self.describe(theta, step)
        return self.now

    def words(self) -> str:
        """What is to be said of a support made since the last call; "" mostly."""
        words, self._words = self._words, ""
        return words

    def restore(self, start: int, support: Support) -> None:
        """A journal's support, in a replay or a resumed run."""
        self.start, self.now = start, support

    @property
    def state_share(self) -> float:
        """The share of theta for which a rule keeps its numbers: all of it, but for stored indices."""
        return 1.0

    def describe(self, theta: Point, step: int) -> str:
        """How much moves, in words."""
        assert self.now is not None
        moving = moving_weights(theta, self.now)
        share = moving / theta.size
        return (
            f"mask from step {step} on: {moving:,} of {theta.size:,} weights move (density {share:.4g}, sparsity "
            f"{1 - share:.4g}); made in {self.seconds:.2f} s"
        )


def moving_weights(theta: Point, support: Support) -> int:
    """How many weights a support moves now; bands are read off theta."""
    total = 0
    for name, part in support.parts.items():
        if theta.shards.counts(at := theta.addresses[name]):
            total += count(part, theta[name], at.key, lo=0 if at.window is None else at.window)
    return theta.shards.added([total])[0]


def matrices(theta: Mapping[str, Any]) -> list[str]:
    """The tensors with two or more dimensions: norms' gains and biases are not masked, they rest."""
    return [name for name, tensor in theta.items() if tensor.ndim > 1]


def scale_of(rescale: bool, density: float) -> float:
    return 1 / math.sqrt(density) if rescale else 1.0
