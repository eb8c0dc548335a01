"""FZOO: one-sided differences along N directions of signs, divided by the losses' standard deviation (Dang et al.,
arXiv 2506.09034).

| symbol | field | default | place |
|---|---|---|---|
| N | q | 8 | the paper's experiments, as others report them; of its own text only the abstract was seen |
| epsilon | eps | 1e-3 | as in `spsa` |
| u_i | | signs | the paper's abstract |

l_0 = f(theta), l_i = f(theta + eps u_i), sigma^2 = 1/(N - 1) sum_i (l_i - mean of l)^2:
c_i = (l_i - l_0) / (eps N sigma). Since l_i - l_0 and sigma are both about eps times a slope, c_i is about 1 / (eps N)
whatever the loss: the rate is a step's length in units of eps, about lr sqrt(d / N) / eps in theta, so it is of another
size than that of `spsa`, and a change of eps changes it. In expectation it is normalised ZO-SGD. Its N directions in
one batched forward (the paper's second part) are not built: docs/log.md, 2026-12-01.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from zofo.zo.estimators import _base, one_sided
from zofo.zo.grad import ZOGrad, float32

if TYPE_CHECKING:
    from zofo.zo.point import Point


@dataclass(frozen=True)
class Config(_base.Shift):
    q: int = field(
        default=8, metadata={"help": "directions of a step, of whose losses the deviation is taken", "ge": 2}
    )


class Estimator(one_sided.Estimator):
    """sum_i c_i u_i. 1 + q evaluations of f, no state. Where no loss differs from another, every c_i is 0."""

    config: Config

    def __call__(self, f: Callable[[], float], theta: Point, step: int, seed: int) -> ZOGrad:
        eps, n, directions = self.config.eps, self.config.q, self.directions(theta, step, seed)
        value, losses = self.losses(f, theta, directions)
        mean = sum(losses) / n
        sigma = math.sqrt(sum((loss - mean) ** 2 for loss in losses) / (n - 1))
        scale = 1 / (eps * n * sigma) if sigma else 0.0
        return ZOGrad(tuple((float32((loss - value) * scale), z) for loss, z in zip(losses, directions)), value, 1 + n)
