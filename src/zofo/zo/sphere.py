"""The number by which the law `sphere` multiplies a gaussian direction, so that |z| = sqrt(d)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from zofo.zo import kernels
from zofo.zo.direction import Direction
from zofo.zo.keys import Address
from zofo.zo.laws import GAUSSIAN, TABLE_ONE
from zofo.zo.move import RESTS, Move
from zofo.zo.shards import WHOLE, Shards
from zofo.zo.support import Band, Chance, Indices, inside

REMEMBERED = 256  # more than an estimate has terms
CHUNK = 1 << 20


class Stretches:
    """sqrt(d 2^24 / sum of q^2) over the weights that move, q 2^-12 their entries; by seed, for the last seeds."""

    def __init__(self) -> None:
        self._known: dict[int, float] = {}
        self._support: object = None

    def forget(self) -> None:
        """theta has moved: which weights a band holds may have changed."""
        if self._support is not None:
            self._known = {}

    def __call__(
        self, theta: Mapping[str, Tensor], addresses: Mapping[str, Address], z: Direction, shards: Shards = WHOLE
    ) -> float:
        if z.support is not self._support:
            self._known, self._support = {}, z.support
        if z.seed not in self._known:
            total, size = shards.added(_sum(theta, addresses, z, shards))
            # An integer quotient and a square root, each rounded once: the same double everywhere
            self._known[z.seed] = math.sqrt(size * TABLE_ONE**2 / total) if total else 1.0
            if len(self._known) > REMEMBERED:
                del self._known[next(iter(self._known))]
        return self._known[z.seed]


def _sum(
    theta: Mapping[str, Tensor], addresses: Mapping[str, Address], z: Direction, shards: Shards
) -> tuple[int, int]:
    """(sum of q^2, number of weights) of what moves, and is this process's to count."""
    move, total, size = Move(), 0, 0
    move.set([(z.seed, 1.0)], z, None)
    for name, tensor in theta.items():
        part, key, at = move.part(name), addresses[name].key, addresses[name]
        if part is RESTS or not shards.counts(at):
            continue
        if (part is None and at.window is None) or isinstance(part, Indices):
            count = tensor.numel() if part is None else len(part.at)
            total, size = total + kernels.sum_squares(count, z.seed, key, tensor.device), size + count
        else:
            assert part is None or isinstance(part, (Band, Chance))
            squares, count = _sum_inside(part, tensor, z.seed, at)
            total, size = total + squares, size + count
    return total, size


def _sum_inside(part: Band | Chance | None, tensor: Tensor, seed: int, at: Address) -> tuple[int, int]:
    total = size = 0
    for number, gauge in enumerate(tensor.detach().reshape(-1).split(CHUNK)):
        where = at.where(number * CHUNK, gauge.numel())
        q = torch.zeros(gauge.numel(), dtype=torch.float32, device=gauge.device)
        kernels.add(q, q, [(seed, float(TABLE_ONE))], at.key, where, law=GAUSSIAN)
        moves = None if part is None else inside(part, gauge, at.key, where)
        total += int((q if moves is None else q[moves]).long().square().sum())
        size += gauge.numel() if moves is None else int(moves.sum())
    return total, size
