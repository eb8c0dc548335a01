"""Directions, supports and moves once more, whole and in float64, from the docstrings of zo/ and not from its code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zofo.zo import kernels
from zofo.zo.direction import Direction
from zofo.zo.grad import ZOGrad
from zofo.zo.kernels import reference
from zofo.zo.keys import derive, tensor_key
from zofo.zo.laws import gaussian_table
from zofo.zo.low_rank import LowRank
from zofo.zo.support import Band, Chance, Indices, Part, Support

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
Whole = dict[str, Tensor]

# ------------------------------------------------------------------------------------------------------------- a theta


class Tree(nn.Module):
    """Parameters under any dotted names, and what a forward reads of them."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, value in tensors.items():
            *path, last = name.split(".")
            module: nn.Module = self
            for part in path:
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = module.get_submodule(part)
            module.register_parameter(last, nn.Parameter(value.clone()))

    def read(self) -> Whole:
        """float64 copies of the weights as the model computes with them now."""
        return {name: read(self, name).double() for name, _ in self.named_parameters()}


def read(model: nn.Module, name: str) -> Tensor:
    """A weight as a function reads it: shifted where a stand-in is there."""
    path, _, last = name.rpartition(".")
    return getattr(model.get_submodule(path), last) * 1.0


def random_tree(dtype: torch.dtype = torch.float32, size: float = 0.1, seed: int = 0, **shapes: Any) -> Tree:
    """Normal weights; a double underscore in a name stands for a dot."""
    generator = torch.Generator().manual_seed(seed)
    return Tree(
        {n.replace("__", "."): (size * torch.randn(s, generator=generator)).to(dtype) for n, s in shapes.items()}
    )


def snapshot(theta: Mapping[str, Tensor]) -> Whole:
    return {name: tensor.detach().clone() for name, tensor in theta.items()}


class Fixed:
    """A mask that is one support at every step."""

    def __init__(self, support: Support | None) -> None:
        self.support = support

    def at(self, theta: object, step: int) -> Support | None:
        return self.support


# ----------------------------------------------------------------------------------------------- supports, directions


def moves(part: Part | str, name: str, values: Tensor) -> Tensor:
    """bool, in the tensor's shape: which weights a part moves; "rests": none."""
    n = values.numel()
    if isinstance(part, str):
        return torch.zeros(values.shape, dtype=torch.bool)
    if isinstance(part, Band):
        size = np.abs(values.detach().float().numpy())
        return torch.from_numpy((size >= np.float32(part.least)) & (size <= np.float32(part.most)))
    if isinstance(part, Chance):
        return _drawn(part, name, n).view(values.shape)
    if isinstance(part, Indices):
        mask = torch.zeros(n, dtype=torch.bool)
        mask[part.at.long()] = True
        return mask.view(values.shape)
    return torch.ones(values.shape, dtype=torch.bool)


@cache
def _drawn(part: Chance, name: str, n: int) -> Tensor:
    return torch.isin(
        reference.quantiles(part.seed, tensor_key(name), 0, n), torch.tensor(gaussian_table()[: part.among])
    )


def moved_by(support: Support | None, theta: Mapping[str, Tensor]) -> Whole:
    parts = dict.fromkeys(theta) if support is None else support.parts
    return {name: moves(parts.get(name, "rests"), name, tensor) for name, tensor in theta.items()}


def whole(theta: Mapping[str, Tensor], z: Direction) -> Whole:
    """z in float64, 0 where it moves nothing."""
    where, tensors = moved_by(z.support, theta), {}
    for name, tensor in theta.items():
        part = None if z.support is None else z.support.parts.get(name)
        values = _entries(z, name, tuple(tensor.shape))
        if isinstance(part, Indices) and not _is_product(z, tuple(tensor.shape)):
            stream = values.view(-1)[: len(part.at)].clone()  # the j-th index takes element j of the stream
            values = torch.zeros(tensor.numel(), dtype=torch.float64)
            values[part.at.long()] = stream
            values = values.view(tensor.shape)
        tensors[name] = torch.where(where[name], values, 0.0)
    scale = 1.0 if z.support is None else z.support.scale
    if z.law == "sphere":
        size = sum(int(w.sum()) for w in where.values())
        scale *= math.sqrt(size / sum(float(t.square().sum()) for t in tensors.values()))
    return {name: scale * t for name, t in tensors.items()}


def dense(theta: Mapping[str, Tensor], g: ZOGrad) -> Whole:
    """sum_i c_i z_i in float64."""
    total = {name: torch.zeros(t.shape, dtype=torch.float64) for name, t in theta.items()}
    for c, z in g.terms:
        for name, entries in whole(theta, z).items():
            total[name] += c * entries
    return total


def flat(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1).double() for t in tensors.values()])


def _is_product(z: Direction, shape: tuple[int, ...]) -> bool:
    return isinstance(z.law, LowRank) and len(shape) > 1 and min(math.prod(shape[:-1]), shape[-1]) > z.law.rank


def _entries(z: Direction, name: str, shape: tuple[int, ...]) -> Tensor:
    if _is_product(z, shape):
        return product_by_hand(z, name, shape)
    return entries("rademacher" if z.law == "rademacher" else "gaussian", z.seed, name, math.prod(shape)).view(shape)


def entries(law: str, seed: int, name: str, n: int) -> Tensor:
    """float64 [n], by the compiled kernel, which has tests of its own: some tests here want thousands."""
    out = torch.zeros(n)
    kernels.add(out, out, [(seed, 1.0)], tensor_key(name), law=law)
    return out.double()


# ------------------------------------------------------------------------------------------------ products of matrices


def gaussian_matrix(seed: int, name: str, m: int, r: int) -> Tensor:
    return entries("gaussian", seed, name, m * r).view(m, r)


def product_by_hand(z: Direction, name: str, shape: tuple[int, ...]) -> Tensor:
    """The formulas of zo/low_rank.py."""
    law = z.law
    assert isinstance(law, LowRank)
    m, n, r = math.prod(shape[:-1]), shape[-1], law.rank
    if law.kind == "lozo":
        u, v = gaussian_matrix(z.seed, f"{name}/U", m, r), gaussian_matrix(law.basis, f"{name}/V", n, r)
        return (u @ v.T / math.sqrt(r)).view(shape)
    u, v = (basis_by_hand(law, f"{name}/{side}", size) for side, size in (("U", m), ("V", n)))
    return (math.sqrt(m * n) / r * u @ gaussian_matrix(z.seed, f"{name}/Z", r, r) @ v.T).view(shape)


def basis_by_hand(law: LowRank, name: str, m: int) -> Tensor:
    """Orthonormal columns [m, r], rounded to whole multiples of 2^-9 of the size of an entry, a power of two."""
    unit = 2.0 ** -(9 + math.ceil(math.log2(m) / 2))
    columns = gram_schmidt_by_hand(gaussian_matrix(law.basis, name, m, law.rank).T.mul(4096).tolist())
    return torch.tensor(columns, dtype=torch.float64).T.div(unit).round().mul(unit)


def gram_schmidt_by_hand(columns: list[list[float]]) -> list[list[float]]:
    """Each against those before it, twice; every sum from the first element to the last."""
    basis: list[list[float]] = []
    for column in columns:
        x = list(column)
        for _ in range(2):
            for q in basis:
                dot = 0.0
                for a, b in zip(q, x):
                    dot += a * b
                x = [b - dot * a for a, b in zip(q, x)]
        square = 0.0
        for b in x:
            square += b * b
        basis.append([b / math.sqrt(square) for b in x])
    return basis


# ----------------------------------------------------------------------------------------------- every pattern of signs


def signs_of(seed: int, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The direction of this seed, all tensors one behind the other, as -1 and +1."""
    return tuple(int(x) for name, n in sizes.items() for x in entries("rademacher", seed, name, n).tolist())


@cache
def seeds_of_all_signs(sizes: tuple[tuple[str, int], ...], *purposes: tuple[str, int]) -> tuple[int, ...]:
    """One seed for each pattern of signs; with purposes, for each combination of those of `derive(seed, *purpose)`."""
    combinations = 2 ** (max(1, len(purposes)) * sum(n for _, n in sizes))
    seeds: dict[tuple, int] = {}
    for seed in count(1):
        keys = [derive(seed, *purpose) if purpose else seed for purpose in purposes or ((),)]
        seeds.setdefault(tuple(signs_of(key, dict(sizes)) for key in keys), seed)
        if len(seeds) == combinations:
            return tuple(seeds.values())
    raise AssertionError
