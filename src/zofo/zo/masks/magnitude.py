"""Sparse MeZO's mask: the small weights of each matrix move (Liu et al., NeurIPS 2025, arXiv 2402.15751).

| symbol | field | default | place |
|---|---|---|---|
| sparsity | sparsity (or density) | 0.75 | Figure 4; rebuttal: 0.7 to 0.8 do as well |
| h_i | computed | once | rebuttal: before training, then fixed |
| percentiles [a, b] | between | none | rebuttal w1: 0-.25, .25-.5, .5-.75, .75-1 |

h_i is the ceil(density n)-th smallest |theta| of the n weights of tensor i, exact. At every step the weights with
|theta_t| <= h_i of the unperturbed theta_t move, the same ones at +eps, at -eps and in the update. No mask is stored:
it is read off theta as the direction is added. With h_i fixed and no weight decay the moving set only shrinks.
Biases and norms' gains (one dimension) rest. `between` a and b takes the weights of these ranks instead, so that bands
that share an end share no weight.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from zofo.errors import InputError
from zofo.zo.masks._base import Base, Share, matrices, scale_of
from zofo.zo.support import Band, Support

if TYPE_CHECKING:
    from zofo.zo.point import Point


@dataclass(frozen=True)
class Config(Share):
    between: tuple[float, float] | None = field(
        default=None,
        metadata={
            "help": "the weights of these ranks of |theta|, e.g. [0.75, 1]: the largest quarter",
            "ge": 0,
            "le": 1,
        },
    )
    scope: Literal["tensor", "layer", "all"] = field(
        default="tensor", metadata={"help": "what a threshold is the quantile of", "paper": "each layer"}
    )
    refresh: int | None = field(
        default=None, metadata={"help": "steps between two computations of the thresholds; null: once", "ge": 1}
    )

    def problems(self) -> list[str]:
        problems = super().problems()
        if self.between is not None:
            if not self.between[0] < self.between[1]:
                problems.append(f"between: expected [a, b] with a < b, got {list(self.between)}")
            if self.sparsity is not None or self.density is not None:
                problems.append("between: has its own share of the weights; leave out sparsity and density")
        return problems

    by_magnitude: ClassVar[bool] = True

    @property
    def renewed(self) -> int | None:
        return self.refresh

    @property
    def moving(self) -> float:
        return super().moving if self.between is None else self.between[1] - self.between[0]

    def faults(self, parts: Mapping[str, Any]) -> list[str]:
        estimator = parts.get("estimator")
        if estimator is not None and estimator.shift == "inplace":
            return ["mask.name: magnitude is read off theta, which mode inplace overwrites; use estimator.shift=layer"]
        return []


class Mask(Base):
    """Two fp32 numbers a tensor, kept in the journal at each refresh."""

    config: Config

    def make(self, theta: Point, step: int) -> Support:
        """Raises InputError where a threshold is 0: after one step nothing would be left to move."""
        from zofo.zo import quantile

        low, high = self.config.between or (0.0, self.config.moving)
        parts = {}
        for names in groups(matrices(theta), self.config.scope):
            tensors = [theta[name] for name in names if theta.shards.counts(theta.addresses[name])]
            n = sum(math.prod(theta.addresses[name].shape) for name in names)
            first, last = rank(low, n), rank(high, n)
            if last == first:
                continue  # a band that holds none of so few weights
            *before, most = quantile.smallest(tensors, [first, last] if first else [last], theta.shards)
            if most == 0:
                raise InputError(
                    f"mask.name: magnitude: {names[0]} is 0 in more than {high:.0%} of its weights, so after one step "
                    f"nothing of it would move; use the mask random"
                )
            parts |= dict.fromkeys(names, Band(quantile.above(before[0]) if before else 0.0, most))
        return Support(parts, scale_of(self.config.rescale, self.config.moving))


def rank(share: float, n: int) -> int:
    """How many of n weights a share of them is, rounded up; a share that is a decimal fraction does not round to one
    more because its binary number is larger than it."""
    return min(n, math.ceil(share * n * (1 - 1e-12)))


def groups(names: list[str], scope: str) -> list[list[str]]:
    """Tensors that share a threshold."""
    if scope == "tensor":
        return [[name] for name in names]
    layers: dict[str, list[str]] = {}
    for name in names:
        layers.setdefault(layer_of(name) if scope == "layer" else "", []).append(name)
    return list(layers.values())


def layer_of(name: str) -> str:
    """The decoder layer of a tensor (`model.layers.3`), or its own name where it is in none."""
    match = re.match(r"(.*?\.\d+)\.", name)
    return match[1] if match else name
