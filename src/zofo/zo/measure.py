"""What a shift and an update of theta come to: the share that a dtype lets through, and seconds."""

from __future__ import annotations

import time

import torch

from zofo.zo import kernels
from zofo.zo.direction import Direction
from zofo.zo.keys import tensor_key
from zofo.zo.point import Point


def realised(theta: Point, z: Direction, scale: float, rounding: str = "stochastic") -> dict[str, float]:
    """Per tensor, the share of the wanted move that the dtype lets through.

    <round(theta + scale z) - theta, z> / (scale <z, z>), 1 where nothing is lost.
    """
    shares, (_, factor) = {}, theta.terms(z, scale)[0]
    for name, param in theta.items():
        seed, key = z.rounding_seed if rounding == "stochastic" else None, tensor_key(name)
        moved = torch.empty_like(param, memory_format=torch.contiguous_format)
        kernels.add(moved, param.detach(), [(z.seed, factor)], key, 0, seed, z.entries)
        entries = torch.zeros(param.shape, dtype=torch.float32, device=param.device)
        kernels.add(entries, entries, [(z.seed, 1.0)], key, law=z.entries)
        step = (moved.double() - param.detach().double()) * entries
        shares[name] = float(step.sum() / entries.double().square().sum()) / factor
    return shares


def time_pass(theta: Point, law: str) -> float:
    """Seconds of one pass over theta, by zero into scratch."""
    start = time.perf_counter()
    for name, param in theta.items():
        for part in param.detach().reshape(-1).split(1 << 22):
            kernels.add(torch.empty_like(part), part, [(0, 0.0)], tensor_key(name), 0, 0, Direction(0, law).entries)
    return time.perf_counter() - start
