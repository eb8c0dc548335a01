"""What estimators share: the radius, the directions of a step, and how their estimates are averaged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from zofo.zo.direction import Direction
from zofo.zo.keys import derive
from zofo.zo.laws import RADEMACHER
from zofo.zo.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from zofo.zo.grad import ZOGrad
    from zofo.zo.low_rank import LowRank
    from zofo.zo.point import Point
    from zofo.zo.support import Support


@dataclass(frozen=True)
class Shift:
    eps: float = field(
        default=1e-3, metadata={"help": "radius of the perturbation", "paper": "eq. (7); B.1.3", "gt": 0}
    )
    q: int = field(default=1, metadata={"help": "directions of a step, whose estimates are averaged", "ge": 1})
    shift: Literal["layer", "copy", "inplace"] = field(
        default="layer",
        metadata={
            "help": "layer: a shifted weight exists while it is read; copy: all in a second copy of theta, for many "
            "micro-batches; inplace: MeZO's arithmetic, which drifts"
        },
    )
    rounding: Literal["stochastic", "nearest"] = field(
        default="stochastic", metadata={"help": "rounding of the shifted weight in bf16 and fp16"}
    )

    anchored: ClassVar[bool] = False  # whether it keeps an estimate of one function at another theta

    def further(self, start: int, stop: int) -> int:
        """Batches beside its own that an estimate at each of the steps start, ..., stop - 1 draws, in all."""
        del start, stop
        return 0

    def problems(self) -> list[str]:
        """What is wrong among these fields, each line "field: what and the fix"."""
        return []

    def faults(self, parts: Mapping[str, Any]) -> list[str]:
        """What does not go with the other sections' Configs, each line "section.field: what and the fix"."""
        del parts
        return []


@dataclass(frozen=True)
class Config(Shift):
    law: Literal["rademacher", "gaussian", "sphere"] = field(
        default="rademacher",
        metadata={
            "help": "law of the direction z: independent signs, independent normal entries, or uniform on a sphere",
            "paper": "N(0,I) in Algorithm 2, a sphere of radius sqrt(d) in the theory",
        },
    )


def seeds_of(seed: int, q: int) -> list[int]:
    """Of the q directions of an estimate with this seed."""
    return [seed, *(derive(seed, "q", i) for i in range(1, q))]


class Base(ABC):
    """An objective and a seed -> a zeroth-order gradient; the mask, if there is one, says which weights it moves.

    keeps: what `host_bytes` are, in words.
    """

    keeps: ClassVar[str] = ""

    def __init__(self, config: Any, seed: int = 0, mask: Any = None, ranks: Ranks = ALONE) -> None:
        """seed: the run's seed, for what is drawn beside the directions. mask: a `masks._base.Base`, or None. ranks:
        those that share the directions."""
        self.config, self.seed, self.mask, self.ranks = config, seed, mask, ranks

    def law(self, step: int) -> str | LowRank:
        """The law of a step's directions."""
        del step
        return getattr(self.config, "law", RADEMACHER)

    def direction(self, theta: Point, step: int, seed: int) -> Direction:
        """The direction with this seed in a step: what a replay needs beside the journal's seeds."""
        support: Support | None = None if self.mask is None else self.mask.at(theta, step)
        return Direction(seed, self.law(step), support)

    def glimpse(self, theta: Point, step: int, seed: int) -> Direction | None:
        """`direction` to look at, beside a run, which goes on as if nobody had; None where its support is not made."""
        if self.mask is None:
            return self.direction(theta, step, seed)
        support: Support | None = self.mask.known(theta, step)
        return None if support is None else Direction(seed, self.law(step), support)

    def directions(self, theta: Point, step: int, seed: int) -> list[Direction]:
        """q directions, the first with the seed itself."""
        return [self.direction(theta, step, one) for one in seeds_of(seed, self.config.q)]

    def evaluated(
        self, directions: Sequence[Direction], evaluate: Callable[[Direction], tuple[float, ...]], width: int
    ) -> list[list[float]]:
        """The `width` values of `evaluate(z)` for each direction, to the last bit as if all were evaluated here: ranks
        share the directions, and tell each other the values."""
        return self.ranks.directions(directions, evaluate, width)

    @abstractmethod
    def __call__(self, f: Callable[[], float], theta: Point, step: int, seed: int) -> ZOGrad:
        """Estimate the gradient of f at theta. seed: 64 bits, new ones each step.

        Coefficients are rounded to fp32, all terms have one law and support, and every direction that theta was
        shifted along is among them, in the order of the shifts: what does not count has the coefficient 0. (In mode
        `inplace` each shift writes theta, and a replay knows the terms alone.)
        """

    def drift_(self, theta: Point, z: Direction) -> None:
        """What an estimate along z does to theta in mode `inplace`, for a replay: its writes, no evaluations."""
        theta.sides(lambda: 0.0, z, self.config.eps, self.config.rounding)

    def passing(self, theta: Point, step: int, terms: tuple[tuple[int, float], ...]) -> None:
        """A replay is about to make the update of this step, theta is as it was: rebuild what the estimate left."""
        del theta, step, terms

    def host_bytes(self, theta: Point) -> float:
        """Bytes beside theta that the estimator keeps, wherever they are."""
        del theta
        return 0.0

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        del state

    def fits(self, theta: Point) -> None:
        """After a loading. Raises ValueError for another model's state."""
        del theta
