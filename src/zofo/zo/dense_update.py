"""theta <- round(theta + step(g)) for a step that is no multiple of g: what rules with a state of every weight do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from zofo.zo.kernels import join
from zofo.zo.keys import Address
from zofo.zo.move import RESTS, SLICE, STILL, Move, add_step
from zofo.zo.support import Band, Chance, Indices, inside
from zofo.zo.window import Where


@dataclass
class Piece:
    """Some of a tensor's weights and their part of the estimate.

    shape: what a state for every weight that can move looks like: the tensor's, or (k,) where k chosen ones can.
    here: which elements of that state, taken flat, these are. g: fp32 [n], sum_i fp32(c_i r_i) z_i from +0 on; the step
    may overwrite it. moves: bool [n], or None for all; elsewhere neither weight nor state may change. where: the
    number of the first in the generator's stream, or the window of the tensor that they are.
    """

    at: Address
    shape: tuple[int, ...]
    here: slice
    g: Tensor
    moves: Tensor | None
    weights: Tensor
    low: Tensor | None
    where: Where

    def values(self) -> Tensor:
        """The weights, fp32 [n]."""
        return self.weights.to(torch.float32) if self.low is None else join(self.weights, self.low)


Step = Callable[[Piece], Tensor]  # -> fp32 [n]
Room = Callable[[str, tuple[int, ...], Tensor], object]  # (name, shape of the state, the tensor)


def apply(
    move: Move, params: Mapping[str, Tensor], addresses: Mapping[str, Address], step: Step, room: Room | None = None
) -> None:
    """One pass over theta in slices; each weight that moves is rounded once, as `Move` does it.

    room: called for every tensor of which something moves, before the pass: states that are made between its
    temporaries would leave holes in memory as large as themselves.
    """
    for name, param in params.items() if room is not None else ():
        part = move.part(name)
        if room is not None and part is not RESTS:
            room(name, (len(part.at),) if isinstance(part, Indices) else tuple(param.shape), param)
    for name, param in params.items():
        part, at = move.part(name), addresses[name]
        if part is RESTS:
            continue
        flat = param.detach().contiguous().view(-1)
        plane = None if move.low is None or name not in move.low else move.low[name].view(-1)
        for piece, where in _pieces(move, flat, plane, at, tuple(param.shape)):
            delta = step(piece)
            if piece.moves is not None:
                delta = torch.where(piece.moves, delta, STILL)
            add_step(piece.weights, piece.weights, piece.low, delta, at.key, piece.where, move.round_seed)
            if where is not None:
                flat[where] = piece.weights
                if plane is not None and piece.low is not None:
                    plane[where] = piece.low
        if not param.is_contiguous():
            param.copy_(flat.view(param.shape))


def _pieces(
    move: Move, flat: Tensor, plane: Tensor | None, at: Address, shape: tuple[int, ...]
) -> Iterator[tuple[Piece, Tensor | None]]:
    """(piece, None) in place, or (piece of copies, where they belong) of chosen weights."""
    part = move.part(at.name)
    shape = (len(part.at),) if isinstance(part, Indices) else shape
    size = len(part.at) if isinstance(part, Indices) else flat.numel()
    for lo in range(0, size, SLICE):
        here = slice(lo, min(lo + SLICE, size))
        if isinstance(part, Indices):
            where = part.at[here].to(torch.int64)
            low = None if plane is None else plane[where]
            yield Piece(at, shape, here, move.dense_chosen(part, at, here), None, flat[where], low, lo), where
        else:
            weights, low = flat[here], None if plane is None else plane[here]
            place = at.where(lo, weights.numel())
            moves = inside(part, weights, at.key, place) if isinstance(part, (Band, Chance)) else None
            g = move.dense(at, lo, weights.numel(), flat.device)
            yield Piece(at, shape, here, g, moves, weights, low, place), None
