"""Keys: every random draw of zofo is addressed, never taken from a global generator."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from zofo.zo.window import Where, Window


def derive(seed: int, purpose: str, *path: int | str) -> int:
    """A 64-bit key for one draw, from the run's seed, the draw's purpose and its place (step, epoch, tensor).

    The first 8 bytes, little endian, of SHA-256 over `seed/purpose/place/...`: the same on every machine, and two
    purposes never share a stream.
    """
    text = "/".join(str(part) for part in (seed, purpose, *path))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def tensor_key(name: str) -> int:
    """The 64-bit number that addresses a tensor inside the generator: the first 8 bytes of SHA-256 of its name.

    It depends on the canonical name alone, so neither the order of the tensors nor freezing one of them changes the
    direction of the others.
    """
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


@dataclass(frozen=True)
class Address:
    """What the bits of a tensor of theta depend on: its canonical name, the number made of it, and its shape.

    window: which of its elements are here, where other processes hold the others; None: all.
    """

    name: str
    key: int
    shape: tuple[int, ...]
    window: Window | None = None

    @classmethod
    def of(cls, name: str, shape: tuple[int, ...], window: Window | None = None) -> Address:
        return cls(name, tensor_key(name), tuple(shape), window)

    def where(self, j: int, n: int) -> Where:
        """The place in the tensor of n of its elements that are here, from the j-th on."""
        return j if self.window is None else self.window.at(j, n)
