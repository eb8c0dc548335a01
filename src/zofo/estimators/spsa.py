"""Two-point SPSA: one direction, the objective at theta + eps z and theta - eps z (Spall 1992; MeZO, Definition 1).

| symbol | field | default | place |
|---|---|---|---|
| epsilon | eps | 1e-3 | Bilevel ZOFO eq. (7); B.1.3 |
| z | law | rademacher | N(0,I) in Algorithm 2, a sphere of radius sqrt(d) in the theory; docs/algorithms.md, law of z |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from zofo.zo.direction import Direction
from zofo.zo.grad import ZOGrad, float32

if TYPE_CHECKING:
    from zofo.zo.point import Point


@dataclass(frozen=True)
class Config:
    eps: float = field(
        default=1e-3, metadata={"help": "radius of the perturbation", "paper": "eq. (7); B.1.3", "gt": 0}
    )
    law: Literal["rademacher", "gaussian", "sphere"] = field(
        default="rademacher",
        metadata={
            "help": "law of the direction z: independent signs, independent normal entries, or uniform on a sphere",
            "paper": "N(0,I) in Algorithm 2, a sphere of radius sqrt(d) in the theory",
        },
    )
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

    def drift_(self, theta: Point, z: Direction) -> None:
        """What an estimate along z does to theta in mode `inplace`, for a replay: its writes, no evaluations."""
        theta.sides(lambda: 0.0, z, self.eps, self.rounding)


class Estimator:
    """c = [f(theta + eps z) - f(theta - eps z)] / (2 eps); the estimate is c z. Two evaluations of f, no state."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, f: Callable[[], float], theta: Point, step: int, seed: int) -> ZOGrad:
        """Estimate the gradient of f at theta. seed: 64-bit seed of z, a new one each step. c is rounded to fp32."""
        z, eps, rounding = Direction(seed, self.config.law), self.config.eps, self.config.rounding
        plus, minus = theta.sides(f, z, eps, rounding)
        c = float32((plus - minus) / (2 * eps))
        return ZOGrad(((c, z),), value=(plus + minus) / 2, forwards=2)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        del state
