"""Endless seeded streams of batches, and the batches of an evaluation."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from itertools import chain

from zofo.data.batch import Batch, collate
from zofo.data.tokenization import Encoded
from zofo.errors import InputError

# Batches of one window of `group_by_length`: enough to find neighbours of nearly equal length, few enough that an
# epoch's batches are not the same groups every time.
WINDOW = 16
ENOUGH = 256  # examples, beyond which a forward's own cost is little beside their tokens
FORWARD_TOKENS = 56  # what a forward costs, in tokens: measured on a CPU (docs/log.md)


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


def eval_parts(encoded: Sequence[Encoded], batch_size: int, forward: float = FORWARD_TOKENS) -> list[list[int]]:
    """Indices into `encoded` of the batches of an evaluation, longest examples first. batch_size: the most examples of
    one; fewer where the padding would cost more than another forward. forward: what one costs, in tokens; inf: as few
    as may be."""
    order = sorted(range(len(encoded)), key=lambda i: (-encoded[i].length, i))
    ends = _ends([(len(encoded[i].rows), encoded[i].length) for i in order], batch_size, forward)
    return [order[start:end] for start, end in zip([0, *ends], ends)]


def eval_batches(
    encoded: Sequence[Encoded], batch_size: int, pad_id: int, forward: float = FORWARD_TOKENS
) -> Iterator[tuple[list[int], Batch]]:
    """(indices into `encoded`, batch) of each of `eval_parts`."""
    for indices in eval_parts(encoded, batch_size, forward):
        yield indices, collate([encoded[i] for i in indices], pad_id)


def forward_cost(device: str) -> float:
    """Of `eval_parts`, on a kind of device. Of others than a CPU it was not measured, so their batches are full."""
    return FORWARD_TOKENS if device == "cpu" else math.inf


def _ends(shapes: Sequence[tuple[int, int]], most: int, forward: float) -> list[int]:
    """Where batches of examples with these (rows, length), longest first, end: the fewest padded tokens, each batch
    counted as `forward` more.

    cost[i] is that of the first i examples. A batch whose padding is more than `forward` times the sum of 1/n over its
    rows is cut with a gain: if no cut gained, (rows behind the n-th) x (the length that they lack) <= forward for
    all n. Nor is a longer batch looked at then, in which that cut gains more.
    """
    count = len(shapes)
    if forward == math.inf:
        return [*range(most, count, most), count] if count else []
    most = min(most, ENOUGH)
    cost, begun = [0.0, *[math.inf] * count], [0] * (count + 1)
    for start, (_, length) in enumerate(shapes):
        rows = tokens = 0
        for end in range(start + 1, min(start + most, count) + 1):
            more, own = shapes[end - 1]
            rows, tokens = rows + more, tokens + more * own
            padded = rows * length
            if padded - tokens > forward * (1 + math.log(rows)):
                break
            if cost[start] + forward + padded < cost[end]:
                cost[end], begun[end] = cost[start] + forward + padded, start
    ends = [count] if count else []
    while ends and begun[ends[0]]:
        ends.insert(0, begun[ends[0]])
    return ends


def longest(encoded: Sequence[Encoded], n: int) -> list[Encoded]:
    """The n examples whose padded rows take most tokens: the batch a dry run must survive."""
    return sorted(encoded, key=lambda e: -e.length * len(e.rows))[:n]
