"""What single directions say of each row's loss, from forwards alone: slopes g_i . z and curvatures z' H_i z.

With E[z z'] = I they carry the gradient itself: E_z[(g_i . z)(g_j . z)] = g_i . g_j and E_z[z' H_i z] = tr H_i, so sums
of products over different rows are squared norms of the mean gradient, of which no weight is ever stored
(docs/signal.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from zofo.zo.direction import Direction
from zofo.zo.point import Point


@dataclass(frozen=True)
class Slopes:
    """float64. losses [n]: of each row at theta. first [K, n]: its slope along each direction; second [K, n]: its
    second derivative along it."""

    losses: Tensor
    first: Tensor
    second: Tensor


def slopes(
    f: Callable[[], Tensor], theta: Point, directions: Iterable[Direction], eps: float, rounding: str = "stochastic"
) -> Slopes:
    """Central differences of radius eps: 2 K + 1 evaluations of f, errors of order eps^2.

    f: [n] the rows' losses with the model as it stands, always the same rows in the same order; their mean is the
    loss. theta is bit-identical afterwards. Raises ValueError for mode `inplace`, which drifts.
    """
    if theta.mode == "inplace":
        raise ValueError("slopes compare many shifts of one theta, and mode inplace does not return to it; use layer")
    at = f().double()
    first, second = [], []
    for z in directions:
        plus, minus = (side.double() for side in theta.sides(f, z, eps, rounding))
        first.append((plus - minus) / (2 * eps))
        second.append((plus - 2 * at + minus) / eps**2)
    return Slopes(at, torch.stack(first), torch.stack(second))
