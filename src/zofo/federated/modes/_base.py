"""What a mode is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from zofo.federated.messages import Answer

Terms = list[tuple[int, float]]  # (seed, coefficient), as a journal keeps them
Aggregate = Callable[[Sequence[float], Sequence[float]], float]


class Mode(Protocol):
    """robust: whether answers are of one direction, so that a median of them means something."""

    robust: bool

    def seed(self, seed: int, round: int, slot: int, step: int, pool: int) -> int:
        """Of the direction of one local step of the client in this slot; the q directions of a step follow from it."""
        ...

    def merge(self, answers: Sequence[Answer], seeds: Sequence[Sequence[int]], aggregate: Aggregate) -> Terms:
        """One update of theta. seeds: of each answer's coefficients."""
        ...
