"""Mixture: an endless stream of batches from many tasks, all with the same share whatever their sizes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from zofo.data.batch import Batch, collate
from zofo.data.stream import Stream
from zofo.data.tokenization import Encoded
from zofo.errors import InputError


class Mixture:
    """A stream like `stream.Stream`, of examples that name their task (`Example.group`).

    The tasks come in rounds, each in an order of the round's own, one example a turn; each task's examples come as in
    a stream of its own. `among` says which tasks the batches to come are made of. Everything is fixed by the seed, the
    name, `position` (the turn) and the tasks' own positions.
    """

    def __init__(self, encoded: Sequence[Encoded], batch_size: int, pad_id: int, seed: int, name: str) -> None:
        """Raises InputError for no examples."""
        if not encoded:
            raise InputError(f"no training examples for the stream {name!r}")
        self.encoded, self.batch_size, self.pad_id, self.seed, self.name = encoded, batch_size, pad_id, seed, name
        groups: dict[str, list[Encoded]] = {}
        for example in encoded:
            groups.setdefault(example.example.group, []).append(example)
        self.parts = {task: Stream(examples, 1, pad_id, seed, f"{name}/{task}") for task, examples in groups.items()}
        self.tasks = tuple(self.parts)
        self.position, self.chosen, self.round = 0, self.tasks, ""

    def among(self, tasks: Sequence[str], round: object = "") -> None:
        """The batches to come are of these tasks. round: keys the orders in which they take turns."""
        self.position, self.chosen, self.round = 0, tuple(tasks), str(round)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        picked = [self.parts[self._task(self.position + i)].draw() for i in range(self.batch_size)]
        self.position += self.batch_size
        return collate(picked, self.pad_id)

    def _task(self, position: int) -> str:
        number, turn = divmod(position, len(self.chosen))
        order = list(self.chosen)
        random.Random(f"{self.seed}/{self.name}/tasks/{self.round}/{number}").shuffle(order)
        return order[turn]

    def fork(self, name: str) -> Mixture:
        """A stream of the same examples in an order of its own, for what is done beside the training."""
        return Mixture(self.encoded, self.batch_size, self.pad_id, self.seed, name)

    def state_dict(self) -> dict[str, Any]:
        positions = {task: part.position for task, part in self.parts.items()}
        return {"position": self.position, "chosen": list(self.chosen), "round": self.round, "parts": positions}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position, self.chosen, self.round = int(state["position"]), tuple(state["chosen"]), state["round"]
        for task, position in state["parts"].items():
            self.parts[task].position = int(position)


def among(streams: Mapping[str, Stream | Mixture], tasks: Sequence[str], round: object) -> None:
    for stream in streams.values():
        if isinstance(stream, Mixture):
            stream.among(tasks, round)
