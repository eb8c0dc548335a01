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

    def __call__(self, theta: Mapping[str, Tensor], addresses: Mapping[str, Address], z: Direction) -> float:
        if z.support is not self._support:
            self._known, self._support = {}, z.support
        if z.seed not in self._known:
            total, size = _sum(theta, addresses, z)
            # An integer quotient and a square root, each rounded once: the same double everywhere
            self._known[z.seed] = math.sqrt(size * TABLE_ONE**2 / total) if total else 1.0
            if len(self._known) > REMEMBERED:
                del self._known[next(iter(self._known))]
        return self._known[z.seed]


def _sum(theta: Mapping[str, Tensor], addresses: Mapping[str, Address], z: Direction) -> tuple[int, int]:
    """(sum of q^2, number of weights) of what moves."""
    move, total, size = Move(), 0, 0
    move.set([(z.seed, 1.0)], z, None)
    for name, tensor in theta.items():
        part, key = move.part(name), addresses[name].key
        if part is None or isinstance(part, Indices):
            count = tensor.numel() if part is None else len(part.at)
            total, size = total + kernels.sum_squares(count, z.seed, key, tensor.device), size + count
        elif part is not RESTS:
            assert isinstance(part, (Band, Chance))
            squares, count = _sum_inside(part, tensor, z.seed, key)
            total, size = total + squares, size + count
    return total, size


def _sum_inside(part: Band | Chance, tensor: Tensor, seed: int, key: int) -> tuple[int, int]:
    total = size = 0
    for number, gauge in enumerate(tensor.detach().reshape(-1).split(CHUNK)):
        moves = inside(part, gauge, key, number * CHUNK)
        q = torch.zeros(gauge.numel(), dtype=torch.float32, device=gauge.device)
        kernels.add(q, q, [(seed, float(TABLE_ONE))], key, number * CHUNK, law=GAUSSIAN)
        total += int(q[moves].long().square().sum())
        size += int(moves.sum())
    return total, size
