"""Updates of theta that wait for one another, so that many are made in one pass over each tensor: a replay's way.

The bits are those of one update after the other: tensors do not read each other, and a part of a tensor takes all its
updates in their order, each with its own rounding, before the next part is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from zofo.zo import kernels
from zofo.zo.direction import Direction
from zofo.zo.kernels.reference import Terms
from zofo.zo.keys import Address
from zofo.zo.low_rank_rows import Store
from zofo.zo.move import RESTS, Move, Planes
from zofo.zo.support import Band

WAITING = 128  # updates: a pass over memory for so many costs nothing beside their arithmetic


class Series:
    """Moves of one law, one support and the same residual planes, in their order."""

    def __init__(self, params: Mapping[str, Tensor], addresses: Mapping[str, Address], store: Store) -> None:
        """params: theta, on a CPU. store: where the bases of low-rank laws are kept."""
        self._params, self._addresses, self._store = params, addresses, store
        self._moves: list[Move] = []

    def put(self, terms: Terms, z: Direction, round_seed: int | None, low: Planes | None) -> None:
        """As `Move.set` takes them. What cannot wait together with it is made first."""
        move = Move(self._store)
        move.set(terms, z, round_seed, low)
        if len(self._moves) == WAITING or (self._moves and not _alike(self._moves[0], move)):
            self.make()
        self._moves.append(move)

    def make(self) -> None:
        """Make what waits. Where the kernels do not do it all, one move after the other."""
        moves, self._moves = self._moves, []
        if not moves:
            return
        updates, first = [(move.terms, move.round_seed) for move in moves], moves[0]
        with torch.no_grad():
            for name, param in self._params.items():
                at = self._addresses[name]
                part, law = first.part(name), first.entries(at.shape)
                if law is not None and at.window is None and (part is None or isinstance(part, Band)):
                    low = None if first.low is None else first.low.get(name)
                    band = None if part is None else (part.least, part.most)
                    kernels.add_series(param, low, updates, at.key, law, band)
                elif part is not RESTS:
                    for move in moves:
                        move.add(param, param, at)


def _alike(one: Move, other: Move) -> bool:
    rounded = (one.round_seed is None) is (other.round_seed is None)
    return rounded and one.law == other.law and one.support is other.support and one.low is other.low
