"""Block-wise directions: each step moves some blocks of theta, the others rest (block coordinate descent by ZO).

| symbol | field | default | place |
|---|---|---|---|
| blocks a step | per_step | 1 | block coordinate descent: one |
| order | order | cyclic | the other is random, with replacement between steps |

A block is a decoder layer, or a tensor that is in none (embeddings, head, last norm). Over a cycle every weight moves
once; at a random step each does with probability per_step / blocks, so z is rescaled on request to keep E[z z'] = I.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from zofo.errors import InputError
from zofo.zo.keys import derive
from zofo.zo.masks._base import Base, MaskConfig, scale_of
from zofo.zo.masks.magnitude import groups
from zofo.zo.support import Support

if TYPE_CHECKING:
    from zofo.zo.point import Point


@dataclass(frozen=True)
class Config(MaskConfig):
    per_step: int = field(default=1, metadata={"help": "blocks that move in a step", "ge": 1})
    order: Literal["cyclic", "random"] = field(default="cyclic", metadata={"help": "how a step's blocks are chosen"})
    refresh: int = field(default=1, metadata={"help": "steps before the next blocks", "ge": 1})
    rescale: bool = field(default=False, metadata={"help": "multiply z by sqrt(blocks / per_step)"})

    @property
    def renewed(self) -> int | None:
        return self.refresh


class Mask(Base):
    """No state."""

    recorded: ClassVar = False
    config: Config

    def make(self, theta: Point, step: int) -> Support:
        """Raises InputError where there are fewer blocks than a step moves."""
        cfg, blocks = self.config, groups(list(theta), "layer")
        if cfg.per_step > len(blocks):
            raise InputError(f"mask.per_step: {cfg.per_step} is more than the {len(blocks)} blocks of the model")
        turn = step // cfg.refresh
        if cfg.order == "cyclic":
            chosen = [(turn * cfg.per_step + i) % len(blocks) for i in range(cfg.per_step)]
        else:
            drawn = [derive(self.seed, "mask/blocks", turn, i) for i in range(len(blocks))]
            chosen = sorted(range(len(blocks)), key=drawn.__getitem__)[: cfg.per_step]
        names = [name for i in sorted(chosen) for name in blocks[i]]
        return Support(dict.fromkeys(names), scale_of(cfg.rescale, cfg.per_step / len(blocks)))
