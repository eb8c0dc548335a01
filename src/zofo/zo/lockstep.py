"""The two sides of an estimate in one reading of theta: two forwards take turns at each layer, while it is in memory.

Each side's forward runs in a thread of its own, and one of the two at a time. They are the forwards that would be made
one after the other, of the same operations in the same order, so they have the same bits.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

from zofo.zo.kernels.reference import Terms
from zofo.zo.move import Move

PATIENCE = 3600.0  # seconds that a side waits for a layer of the other


class _Abandoned(BaseException):
    """The other side has failed, and nobody asks for this one any more."""


class Lockstep:
    """`both` makes each `evaluate` inside compute both sides and give the first; `second` gives the other ones then."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._pool: ThreadPoolExecutor | None = None
        self._move: Move | None = None  # while both sides are computed
        self._terms: tuple[Terms, Terms] = ((), ())
        self._turn, self._done = 0, [True, True]
        self._abandoned = False
        self._main = 0
        self._answers: deque[tuple[tuple[Tensor, ...], Tensor]] = deque()
        self._answering = False

    @contextmanager
    def both(self, move: Move, terms: Terms) -> Iterator[None]:
        """move: what the model is shifted by, on the first side; terms: on the second, of the same law and support."""
        self._move, self._terms = move, (move.terms, terms)
        self._answers.clear()
        try:
            yield
        finally:
            self._move = None

    @contextmanager
    def second(self) -> Iterator[None]:
        """Evaluations inside were made in `both`, in the same order."""
        self._answering = True
        try:
            yield
        finally:
            self._answering = False
            self._answers.clear()

    def evaluate(self, compute: Callable[[], Tensor], *inputs: Tensor) -> Tensor:
        """compute(): a forward's result, which follows from theta and the inputs, and from nothing that it changes.

        Where it was asked of the first side with other inputs than of the second, the second is computed anew.
        """
        if self._answering and self._answers:
            known, answer = self._answers.popleft()
            if len(known) == len(inputs) and all(map(torch.equal, known, inputs)):
                return answer
            self._answers.clear()
        if self._move is None:
            return compute()
        first, second = self._together(compute)
        self._answers.append((inputs, second))
        return first

    def _together(self, compute: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        self._pool = self._pool or ThreadPoolExecutor(1, "zofo-second-side")
        self._turn, self._done, self._abandoned, self._main = 0, [False, False], False, threading.get_ident()
        other = self._pool.submit(self._second, compute)
        try:
            first = compute()
        except BaseException:
            self._abandoned = True
            raise
        finally:
            self._finish(0)
            if self._abandoned:
                other.exception()  # it ends at its next layer
        try:
            return first, other.result()
        finally:
            self._set(0)

    def _second(self, compute: Callable[[], Tensor]) -> Tensor:
        try:
            self._wait(1)
            with torch.no_grad():
                return compute()
        finally:
            self._finish(1)

    @property
    def alone(self) -> bool:
        """Whether no other side is on its way through the layers."""
        return self._move is None or any(self._done)

    def turn(self) -> None:
        """At a layer's beginning: the other side comes to the same place, if it is not done."""
        if self._move is None or all(self._done):
            return
        me = 0 if threading.get_ident() == self._main else 1
        with self._changed:
            if self._abandoned:
                raise _Abandoned
            if self._done[1 - me]:
                return
            self._turn = 1 - me
            self._changed.notify_all()
        self._wait(me)

    def _wait(self, me: int) -> None:
        with self._changed:
            there = self._changed.wait_for(lambda: self._turn == me or self._abandoned, PATIENCE)
        if self._abandoned or not there:
            raise _Abandoned
        self._set(me)

    def _set(self, side: int) -> None:
        if self._move is not None:
            self._move.terms = self._terms[side]

    def _finish(self, me: int) -> None:
        with self._changed:
            self._done[me], self._turn = True, 1 - me
            self._changed.notify_all()
