"""Numbers that a rule keeps for every weight, in fp32, bf16 or 8 bits.

bf16 and 8 bits are rounded stochastically: to nearest, a mean with decay 0.999 would stand still, since its change is
less than half of the last place.

The 8 bits are a small float relative to the largest magnitude of its block of 256 (block-wise as in Dettmers et al.,
arXiv 2110.02861; the code is a plain one here): code 0 is 0, code k is the fp32 number with the pattern
(1016 - levels + k) << 20 for k = 1 ... levels, so three bits behind the point, up to 1. With a sign there are 127
levels, down to 1.25 2^-16 of the block's largest, without one 255, down to 1.25 2^-32. What is smaller becomes 0 or
the smallest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zofo.zo import kernels
from zofo.zo.window import Where

BLOCK = 256
BYTES = {"float32": 4.0, "bfloat16": 2.0, "8bit": 1.0 + 4 / BLOCK}


class State:
    """One kind of number for every weight that can move: {tensor's name: its numbers}, made when first asked for."""

    def __init__(self, kind: str, signed: bool = True) -> None:
        self.kind, self.signed = kind, signed
        self.of: dict[str, dict[str, Tensor]] = {}

    @property
    def values(self) -> dict[str, Tensor]:
        """{tensor's name: its numbers}, of fp32 and bf16."""
        return {name: parts["values"] for name, parts in self.of.items()}

    def read(self, name: str, shape: tuple[int, ...], here: slice, like: Tensor, copy: bool) -> Tensor:
        """fp32 [n]: the numbers of `here`, 0 at first. Without `copy` it may be the state itself (fp32)."""
        parts = self.room(name, shape, like)
        if self.kind == "8bit":
            return decode(parts["codes"][here], self._scales(parts, here), self.signed)
        part = parts["values"].view(-1)[here]
        return part.clone() if copy and self.kind == "float32" else part.to(torch.float32)

    def write(
        self, name: str, here: slice, values: Tensor, moves: Tensor | None, key: int, seed: int, where: Where
    ) -> None:
        """Keep fp32 values [n], where `moves` says so. key, seed: of the tensor and of this step's rounding; where: in
        the tensor, see `Piece`.

        In 8 bits the numbers of a block share a scale, and those that rest are rounded anew when it changes.
        """
        parts = self.of[name]
        if self.kind == "8bit":
            before, was = parts["codes"][here], self._scales(parts, here)
            if moves is not None:
                values = torch.where(moves, values, decode(before, was, self.signed))
            noise = kernels.noise(values.numel(), seed, key, where, values.device)
            codes, scales = encode(values, noise, self.signed)
            if moves is not None:  # a number divided by its scale and multiplied again may be another one
                changed = (scales != was).repeat_interleave(BLOCK)[: len(codes)]
                codes = torch.where(moves | changed, codes, before)
            before.copy_(codes)
            was.copy_(scales)
            return
        part = parts["values"].view(-1)[here]
        if self.kind == "bfloat16":
            rounded = torch.empty_like(part)
            kernels.add_dense(rounded, torch.zeros_like(part), values, key, where, seed)
            values = rounded
        if moves is None:
            part.copy_(values)
        else:
            torch.where(moves, values, part, out=part)

    def room(self, name: str, shape: tuple[int, ...], like: Tensor) -> dict[str, Tensor]:
        """A tensor's numbers, made where there are none yet, on the device of `like`."""
        if name not in self.of:
            parts = self._parts(math.prod(shape))
            made = {part: torch.zeros(length, dtype=dtype) for part, (dtype, length) in parts.items()}
            self.of[name] = {k: (t.view(shape) if k == "values" else t).to(like.device) for k, t in made.items()}
        parts = self.of[name]
        if next(iter(parts.values())).device != like.device:  # a loaded state is on the CPU
            self.of[name] = parts = {part: tensor.to(like.device) for part, tensor in parts.items()}
        return parts

    def _parts(self, size: int) -> dict[str, tuple[torch.dtype, int]]:
        """{part: its dtype, its length} of so many numbers."""
        if self.kind == "8bit":
            return {"codes": (torch.uint8, size), "scales": (torch.float32, -(-size // BLOCK))}
        return {"values": (getattr(torch, self.kind), size)}

    @staticmethod
    def _scales(parts: Mapping[str, Tensor], here: slice) -> Tensor:
        return parts["scales"][here.start // BLOCK : -(-here.stop // BLOCK)]

    def state_dict(self) -> dict[str, Any]:
        """The tensors themselves, not copies."""
        return {name: dict(parts) for name, parts in self.of.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError for other parts or dtypes than are kept; for sizes see `fits`."""
        dtypes = {part: dtype for part, (dtype, _) in self._parts(0).items()}
        for name, parts in state.items():
            if {part: tensor.dtype for part, tensor in parts.items()} != dtypes:
                raise ValueError(f"what the rule keeps for {name} is not {', '.join(dtypes)} as {self.kind}")
        self.of = {name: {part: tensor.clone() for part, tensor in parts.items()} for name, parts in state.items()}

    def fits(self, theta: Mapping[str, Tensor], masked: bool) -> None:
        """Raises ValueError where the numbers are not as many as theta's weights; masked: or fewer."""
        for name, parts in self.of.items():
            most = theta[name].numel() if name in theta else 0
            held = parts["codes" if self.kind == "8bit" else "values"].numel()
            lengths = {part: length for part, (_, length) in self._parts(held).items()}
            if held > most or (held < most and not masked) or {k: t.numel() for k, t in parts.items()} != lengths:
                raise ValueError(f"what the rule keeps for the {most} weights of {name} is of another size")


def decode(codes: Tensor, scales: Tensor, signed: bool) -> Tensor:
    """codes uint8 [n], scales fp32 [n / 256, up] -> fp32 [n]."""
    levels = 127 if signed else 255
    codes = codes.to(torch.int32)
    sizes = codes & 127 if signed else codes
    values = ((1016 - levels + sizes) << 20).view(torch.float32)
    values = torch.where(sizes == 0, 0.0, values) * scales.repeat_interleave(BLOCK)[: len(codes)]
    return torch.where(codes > 127, -values, values) if signed else values


def encode(values: Tensor, noise: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """fp32 [n], noise int32 [n] in [0, 2^16) -> (codes uint8 [n], scales fp32 [n / 256, up]), right on average."""
    levels, count = (127 if signed else 255), len(values)
    size = torch.zeros(-(-count // BLOCK) * BLOCK, dtype=torch.float32, device=values.device)
    size[:count] = values.abs()
    scales = size.view(-1, BLOCK).amax(1)
    least = torch.tensor([(1017 - levels) << 20], dtype=torch.int32, device=values.device).view(torch.float32)
    x = size[:count] / torch.where(scales == 0, 1.0, scales).repeat_interleave(BLOCK)[:count]
    normal = ((x.view(torch.int32) + (noise << 4)) >> 20) - (1016 - levels)
    tiny = (x / least * 65536 > noise).to(torch.int32)
    codes = torch.where(x < least, tiny, normal)
    if signed:
        codes = codes + 128 * ((values < 0) & (codes > 0)).to(torch.int32)
    return codes.to(torch.uint8), scales
