"""R-MeZO's mask: weights drawn at random, the control of Sparse MeZO's (arXiv 2402.15751).

| symbol | field | default | place |
|---|---|---|---|
| sparsity | sparsity (or density) | 0.75 | that of `magnitude`, to compare with |

Each weight of a tensor with two or more dimensions moves with probability round(4096 density) / 4096, the same ones
in every step, or others after each `refresh`. Nothing is stored: the draw is made again from its seed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from zofo.zo.keys import derive
from zofo.zo.masks._base import Base, Share, matrices, scale_of
from zofo.zo.support import Chance, Support

if TYPE_CHECKING:
    from zofo.zo.point import Point


@dataclass(frozen=True)
class Config(Share):
    refresh: int | None = field(default=None, metadata={"help": "steps between two draws; null: one draw", "ge": 1})

    @property
    def renewed(self) -> int | None:
        return self.refresh

    def problems(self) -> list[str]:
        if abs(self.among / 4096 - self.moving) > 0.1 * self.moving:
            return [f"density: {self.moving:g} is no multiple of 1/4096, nor near one; give {self.among / 4096:.4g}"]
        return super().problems()

    @property
    def among(self) -> int:
        """Of 4096."""
        return max(1, round(4096 * self.moving))


class Mask(Base):
    """No state."""

    recorded: ClassVar = False
    config: Config

    def make(self, theta: Point, step: int) -> Support:
        part = Chance(derive(self.seed, "mask/random", step), self.config.among)
        return Support(dict.fromkeys(matrices(theta), part), scale_of(self.config.rescale, self.config.among / 4096))
