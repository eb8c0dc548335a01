"""What a shift and an update of theta come to: the share that a dtype lets through, and seconds."""

from __future__ import annotations

import time

import torch

from zofo.zo import kernels
from zofo.zo.direction import Direction
from zofo.zo.keys import tensor_key
from zofo.zo.laws import RADEMACHER
from zofo.zo.move import RESTS, Move
from zofo.zo.point import Point


def realised(theta: Point, z: Direction, scale: float, rounding: str = "stochastic") -> dict[str, float]:
    """Per tensor, the share of the wanted move that the dtype lets through.

    <round(theta + scale z) - theta, z> / (scale <z, z>), 1 where nothing is lost. Tensors that rest are left out.
    """
    shares, (_, factor) = {}, theta.terms(z, scale)[0]
    move, entries = Move(theta.bases), Move(theta.bases)
    move.set([(z.seed, factor)], z, z.rounding_seed if rounding == "stochastic" else None)
    entries.set([(z.seed, 1.0)], z, None)
    for name, param in theta.items():
        at = theta.addresses[name]
        if move.part(name) is RESTS:
            continue
        moved = torch.empty_like(param, memory_format=torch.contiguous_format)
        move.add(moved, param.detach(), at)
        wanted = torch.zeros(param.shape, dtype=torch.float32, device=param.device)
        entries.add(wanted, wanted, at, gauge=param)
        step = (moved.double() - param.detach().double()) * wanted
        sums = [float(step.sum()), float(wanted.double().square().sum())]
        made, total = sums if at.window is None else theta.shards.summed(sums)
        if total:
            shares[name] = made / total / factor
    return shares


def time_pass(theta: Point, law: str = RADEMACHER) -> float:
    """Seconds of one pass over theta, by zero into scratch."""
    start = time.perf_counter()
    for name, param in theta.items():
        for part in param.detach().reshape(-1).split(1 << 22):
            kernels.add(torch.empty_like(part), part, [(0, 0.0)], tensor_key(name), 0, 0, law)
    return time.perf_counter() - start
