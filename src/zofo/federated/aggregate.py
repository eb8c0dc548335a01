"""One coefficient out of the clients' own, for one direction. No torch.

mean      sum of rows_i c_i / sum of rows_i: what all rows together would give
median    of the clients, each counting once: holds as long as fewer than half lie (Yin et al., arXiv 1803.01498)
trimmed   the mean by rows without the `trim` share of the smallest and of the largest (the same paper)
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import partial
from typing import Literal

from zofo.federated.modes._base import Aggregate
from zofo.zo.grad import float32

Name = Literal["mean", "median", "trimmed"]


def of_name(name: Name, trim: float) -> Aggregate:
    return {"mean": mean, "median": median, "trimmed": partial(trimmed, share=trim)}[name]


def mean(c: Sequence[float], rows: Sequence[float]) -> float:
    """Exact before its one rounding, so that the order of the clients does not matter."""
    return float32(math.fsum(n * value for n, value in zip(rows, c, strict=True)) / math.fsum(rows))


def median(c: Sequence[float], rows: Sequence[float]) -> float:
    del rows
    return float32(statistics.median(c))


def trimmed(c: Sequence[float], rows: Sequence[float], share: float) -> float:
    """Of n answers floor(share n) go at either end; one stays at least."""
    pairs = sorted(zip(c, rows, strict=True))
    out = min(math.floor(share * len(pairs)), (len(pairs) - 1) // 2)
    kept = pairs[out : len(pairs) - out]
    return mean([value for value, _ in kept], [n for _, n in kept])


def clipped(c: float, bound: float | None) -> float:
    return c if bound is None else max(-bound, min(bound, c))
