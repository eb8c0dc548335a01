"""Endless seeded streams of batches, and the batches of an evaluation."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import chain

from zofo.data.batch import Batch, collate
from zofo.data.tokenization import Encoded
from zofo.errors import InputError

# Batches of one window of `group_by_length`: enough to find neighbours of nearly equal length, few enough that an
# epoch's batches are not the same groups every time.
WINDOW = 16


class Stream:
    """An endless stream of batches: every example once an epoch, in an order of the epoch's own.

    The order of epoch e comes from (seed, name, e), the number of examples and the batch size alone, so `position`, the
    number of examples drawn so far, restores the stream. A batch that an epoch cannot fill goes on in the next one.
    """

    def __init__(
        self,
        encoded: Sequence[Encoded],
        batch_size: int,
        pad_id: int,
        seed: int,
        name: str,
        group_by_length: bool = False,
    ) -> None:
        """group_by_length: the batches that lie within an epoch hold examples of similar length, see `_grouped`."""
        if not encoded:
            raise InputError(f"no training examples for the stream {name!r}")
        self.encoded, self.batch_size, self.pad_id = encoded, batch_size, pad_id
        self.seed, self.name, self.group_by_length = seed, name, group_by_length
        self.position = 0
        self._epoch, self._order = -1, list[int]()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return collate([self.draw() for _ in range(self.batch_size)], self.pad_id)

    def draw(self) -> Encoded:
        """The next example."""
        self.position += 1
        return self.encoded[self._index(self.position - 1)]

    def _index(self, position: int) -> int:
        epoch, offset = divmod(position, len(self.encoded))
        if epoch != self._epoch:
            order, rng = list(range(len(self.encoded))), random.Random(f"{self.seed}/{self.name}/{epoch}")
            rng.shuffle(order)
            self._order = self._grouped(order, epoch, rng) if self.group_by_length else order
            self._epoch = epoch
        return self._order[offset]

    def _grouped(self, order: list[int], epoch: int, rng: random.Random) -> list[int]:
        """The epoch's permutation, the examples of every WINDOW batches sorted by length and these batches shuffled.

        The examples at its two ends, which share a batch with another epoch, stay where they are: an epoch is a
        permutation of the examples still, and no batch is cut short.
        """
        size = self.batch_size
        head = -epoch * len(order) % size  # they complete the batch that the epoch before could not fill
        tail = max(head, len(order) - (len(order) - head) % size)
        grouped = order[:head]
        for start in range(head, tail, WINDOW * size):
            window = order[start : min(start + WINDOW * size, tail)]
            window.sort(key=lambda i: self.encoded[i].size)  # not length: the order must not hang on a probe's outcome
            batches = [window[i : i + size] for i in range(0, len(window), size)]
            rng.shuffle(batches)
            grouped += chain.from_iterable(batches)
        return grouped + order[tail:]

    def fork(self, name: str) -> Stream:
        """A stream of the same examples in an order of its own, for what is done beside the training."""
        return Stream(self.encoded, self.batch_size, self.pad_id, self.seed, name)

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = int(state["position"])


def eval_batches(encoded: Sequence[Encoded], batch_size: int, pad_id: int) -> Iterator[tuple[list[int], Batch]]:
    """(indices into `encoded`, batch), longest examples first: little padding, and the peak of memory comes at once."""
    order = sorted(range(len(encoded)), key=lambda i: (-encoded[i].length, i))
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        yield indices, collate([encoded[i] for i in indices], pad_id)


def longest(encoded: Sequence[Encoded], n: int) -> list[Encoded]:
    """The n examples whose padded rows take most tokens: the batch a dry run must survive."""
    return sorted(encoded, key=lambda e: -e.length * len(e.rows))[:n]
