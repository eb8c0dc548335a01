"""Which elements of a tensor are here, where several processes hold it together: a rectangle, as runs at a pitch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """Element j of what is here is element lo + (skip + j) // run * pitch + (skip + j) % run of the tensor.

    A tensor that is cut along its first dimension has one run; along another, a run for each index before it. skip:
    elements of the first run that are passed over, for what begins within one.
    """

    lo: int
    run: int
    pitch: int
    skip: int = 0

    @classmethod
    def of(cls, shape: tuple[int, ...], dim: int, start: int, length: int) -> Window:
        """Indices start ... start + length - 1 of one dimension of a tensor of this shape."""
        inner = 1
        for size in shape[dim + 1 :]:
            inner *= size
        return cls(start * inner, length * inner, shape[dim] * inner)

    def at(self, j: int, n: int) -> Where:
        """The place of the n elements from j on: a number where the tensor has them in a row."""
        row, skip = divmod(self.skip + j, self.run) if self.run else (0, 0)
        lo = self.lo + row * self.pitch
        return lo + skip if skip + n <= self.run or self.run == self.pitch else Window(lo, self.run, self.pitch, skip)

    def spans(self, n: int) -> Iterator[tuple[slice, int]]:
        """(some of the n elements from its beginning on, the number of the first of them), each in a row."""
        start, row, skip = 0, 0, self.skip
        while start < n:
            stop = min(n, start + self.run - skip)
            yield slice(start, stop), self.lo + row * self.pitch + skip
            start, row, skip = stop, row + 1, 0


Where = int | Window  # of elements in a tensor: the number of the first of a row of them, or where they are


def moved(where: Where, j: int, n: int) -> Where:
    """The place of the n elements from j on of what begins at `where`."""
    return where + j if isinstance(where, int) else where.at(j, n)
