"""The support of a direction: which weights it moves. The others keep their bits, in an estimate and in an update.

Of each tensor either nothing moves, or one of these *parts* of it:

    None          all of it
    Band(a, b)    the weights with a <= |w| <= b, read off theta itself, unperturbed, whenever it is needed: no mask
                  is stored (Sparse MeZO, arXiv 2402.15751)
    Chance(s, n)  each weight with probability n / 4096, the same ones whenever the seed s is the same: those whose
                  entry of the Gaussian direction s is among the table's n lowest values (`laws.gaussian_table`)
    Indices       the weights with these row-major numbers, ascending: 4 bytes each. The j-th of them takes element j of
                  the direction's and of the rounding's stream, so that a step costs what moves, not what rests
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zofo.zo.laws import TABLE_ONE, TABLE_SIZE, gaussian_table
from zofo.zo.window import Where, moved

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_U32 = struct.Struct("<I")


@dataclass(frozen=True)
class Band:
    """fp32 magnitudes, both ends included."""

    least: float
    most: float


@dataclass(frozen=True)
class Chance:
    seed: int
    among: int  # of 4096

    def __post_init__(self) -> None:
        if not 0 < self.among <= TABLE_SIZE:
            raise ValueError(f"the share of weights that move is 1 to {TABLE_SIZE} of {TABLE_SIZE}, got {self.among}")


@dataclass(frozen=True, eq=False)
class Indices:
    at: Tensor  # [k] int32 (int64 beyond 2^31 weights), ascending, on theta's device


Part = Band | Chance | Indices | None


@dataclass(frozen=True, eq=False)
class Support:
    """parts: {name of a tensor: what moves of it}; a tensor that is not there rests.

    scale: multiplies every z, for instance by 1 / sqrt(density). The density of a fixed support does not change what an
    estimate is unbiased for: the gradient with respect to the weights that move, times scale^2.
    """

    parts: Mapping[str, Part]
    scale: float = 1.0

    def pack(self) -> bytes:
        """For the journal: u32 length of the JSON text, the text, then for each `indices` its zlib stream (u32 length
        before it) of the differences from one index to the next (from -1 to the first), little-endian uint32.

        Raises ValueError for a difference that does not fit.
        """
        import torch

        plain, streams = {}, []
        for name, part in sorted(self.parts.items()):
            plain[name] = _to_json(part)
            if isinstance(part, Indices):
                at = part.at.cpu().to(torch.int64)
                steps = torch.diff(at, prepend=torch.tensor([-1]))
                if len(steps) and int(steps.max()) >= 2**32:
                    raise ValueError(
                        f"{name}: {int(steps.max())} weights between two that move; the journal takes 2^32 - 1"
                    )
                streams.append(zlib.compress(steps.numpy().astype("<u4").tobytes(), 1))
        text = json.dumps({"scale": self.scale, "parts": plain}, sort_keys=True).encode()
        return b"".join((_U32.pack(len(text)), text, *(_U32.pack(len(s)) + s for s in streams)))

    @classmethod
    def unpack(cls, raw: bytes, device: torch.device | str = "cpu") -> Support:
        """What `pack` wrote; indices come to `device`."""
        import torch

        end = 4 + _U32.unpack_from(raw)[0]
        data = json.loads(raw[4:end])
        parts: dict[str, Part] = {}
        for name, described in sorted(data["parts"].items()):
            if described and "indices" in described:
                size = _U32.unpack_from(raw, end)[0]
                plain = bytearray(zlib.decompress(raw[end + 4 : end + 4 + size]))
                steps = torch.frombuffer(plain, dtype=torch.int32) if plain else torch.zeros(0, dtype=torch.int32)
                at = torch.cumsum(steps.to(torch.int64) & 0xFFFFFFFF, 0) - 1
                parts[name], end = Indices(narrowed(at).to(device)), end + 4 + size
            else:
                parts[name] = _from_json(described)
        return cls(parts, data["scale"])


def _to_json(part: Part) -> dict | None:
    if isinstance(part, Band):
        return {"band": [part.least, part.most]}
    if isinstance(part, Chance):
        return {"chance": [part.seed, part.among]}
    return {"indices": len(part.at)} if isinstance(part, Indices) else None


def _from_json(described: dict | None) -> Part:
    if not described:
        return None
    return Band(*described["band"]) if "band" in described else Chance(*described["chance"])


def narrowed(at: Tensor) -> Tensor:
    """Ascending row-major numbers as int32 where they fit."""
    import torch

    return at.to(torch.int32) if not len(at) or int(at[-1]) < 2**31 else at


def inside(part: Band | Chance, gauge: Tensor, key: int, lo: Where) -> Tensor:
    """bool [n]: which of the elements lo ... lo + n - 1 of the tensor `key` move; gauge: theta's own values there."""
    import torch

    from zofo.zo import kernels

    if isinstance(part, Band):
        size = gauge.to(torch.float32).abs()
        return (size >= part.least) & (size <= part.most)
    drawn = torch.zeros(gauge.numel(), dtype=torch.float32, device=gauge.device)
    kernels.add(drawn, drawn, [(part.seed, 1.0)], key, lo, law="gaussian")
    return drawn <= gaussian_table()[part.among - 1] / TABLE_ONE


def members(part: Part, tensor: Tensor, key: int) -> Tensor:
    """bool, of the tensor's shape: which of its weights move."""
    import torch

    if part is None:
        return torch.ones(tensor.shape, dtype=torch.bool, device=tensor.device)
    if isinstance(part, Indices):
        out = torch.zeros(tensor.numel(), dtype=torch.bool, device=tensor.device)
        out[part.at.to(torch.int64)] = True
        return out.view(tensor.shape)
    return inside(part, tensor.detach().reshape(-1), key, 0).view(tensor.shape)


def count(part: Part, tensor: Tensor, key: int, chunk: int = 1 << 20, lo: Where = 0) -> int:
    """How many weights of a tensor move. lo: where it begins in the whole one, or the window of it that it is."""
    if part is None:
        return tensor.numel()
    if isinstance(part, Indices):
        return len(part.at)
    flat = tensor.detach().reshape(-1)
    return sum(
        int(inside(part, c, key, moved(lo, i * chunk, c.numel())).sum()) for i, c in enumerate(flat.split(chunk))
    )
