"""The processes that hold one theta together, each a part of most tensors, and what they add up and put together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from zofo.zo.keys import Address
from zofo.zo.window import Window

if TYPE_CHECKING:
    from torch import Tensor

Gather = Callable[
    ["Tensor"], "list[Tensor]"
]  # a tensor of the CPU -> that of each of them, of the same shape and dtype


class Shards:
    """place: of this process among `size` that hold one theta. Alone, everything is here."""

    def __init__(self, size: int = 1, place: int = 0, gather: Gather | None = None) -> None:
        self.size, self.place, self._gather = size, place, gather

    def counts(self, at: Address) -> bool:
        """Whether what is counted of a tensor is ours to count: a tensor that all hold whole is the first's."""
        return at.window is not None or self.place == 0

    def added(self, numbers: Sequence[int]) -> list[int]:
        """The sum of each number over the processes, exact: integers below 2^63."""
        if self._gather is None:
            return list(numbers)
        import torch

        parts = [part.tolist() for part in self._gather(torch.tensor(numbers, dtype=torch.int64))]
        return [sum(values) for values in zip(*parts)]

    def summed(self, numbers: Sequence[float]) -> list[float]:
        """The sum of each number over the processes, in their order: the same bits on all."""
        if self._gather is None:
            return list(numbers)
        import torch

        parts = [part.tolist() for part in self._gather(torch.tensor(numbers, dtype=torch.float64))]
        return [sum(values) for values in zip(*parts)]

    def whole(self, tensor: Tensor, at: Address) -> Tensor:
        """All of a tensor, on the CPU, of which `tensor` is what is here."""
        if self._gather is None or at.window is None:
            return tensor.detach().cpu()
        import torch

        raw = tensor.detach().contiguous().cpu().view(-1).view(torch.uint8)
        window = at.window
        facts = self._gather(torch.tensor([window.lo, window.run, window.pitch, tensor.numel()], dtype=torch.int64))
        width = tensor.element_size()
        longest = max(int(each[3]) for each in facts) * width
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(raw)] = raw
        out = torch.empty(math.prod(at.shape), dtype=tensor.dtype)
        for part, each in zip(self._gather(padded), facts):
            lo, run, pitch, count = map(int, each)
            values = part[: count * width].view(tensor.dtype)
            for some, first in Window(lo, run, pitch).spans(count):
                out[first : first + some.stop - some.start] = values[some]
        return out.view(at.shape)


WHOLE = Shards()


def cut(whole: Tensor, at: Address) -> Tensor:
    """What is here of a tensor: itself, or the elements of its window, in a row."""
    if at.window is None:
        return whole
    import torch

    flat, window = whole.reshape(-1), at.window
    count = window.run * (flat.numel() // window.pitch) if window.pitch else 0
    parts = [flat[lo : lo + some.stop - some.start] for some, lo in window.spans(count)]
    return torch.cat(parts) if parts else flat[:0]


class Gathered(Mapping[str, "Tensor"]):
    """Tensors by name as of a whole model: each is put together when it is asked for, by all processes at once."""

    def __init__(self, tensors: Mapping[str, Tensor], addresses: Mapping[str, Address], shards: Shards) -> None:
        self._tensors, self._addresses, self._shards = tensors, addresses, shards

    def __getitem__(self, name: str) -> Tensor:
        return self._shards.whole(self._tensors[name], self._addresses[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
