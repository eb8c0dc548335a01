"""Bytes of the tensors that are alive, by part and by phase: a watch over every operation that torch dispatches.

A storage counts once, however many views it has, from the operation that made it until torch frees it. What an
operation takes for itself and gives back within its own call (a matrix product's packed operand) is not dispatched, so
it is not seen.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, UntypedStorage

from zofo.zo._torch import TorchDispatchMode, tree_leaves
from zofo.zo.quantized import parts

PARTS = ("weights", "adapters", "moments", "gradients", "scratch", "logits", "activations")
REST = "rest of the step"


@dataclass(frozen=True)
class Peak:
    """What was alive when a phase had most: bytes by part. `moments` are those of optimizers and of a rule."""

    phase: str
    parts: dict[str, int]

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(self.parts.values())


class Live(TorchDispatchMode):
    """Inside this context every new storage is counted; `peaks` holds the fullest moment of each phase.

    A mode that replaces what is computed (see `hollow.Hollow`) is entered first, so that its results are counted.
    """

    def __init__(self, vocabulary: int, every: bool = False) -> None:
        """vocabulary: the width by which logits are told from other activations. every: keep all `moments`."""
        super().__init__()
        self.vocabulary = vocabulary
        self.peaks: dict[str, Peak] = {}
        self.moments: dict[str, list[tuple[int, ...]]] = {}  # by phase: bytes by part, in the order of PARTS
        self._every = every
        self._highest: Counter[str] = Counter()  # bytes by phase
        self._bytes: Counter[str] = Counter()  # by part
        self._total = 0
        self._storages: dict[
            int, tuple[weakref.ref[UntypedStorage], str, int]
        ] = {}  # id -> (weak reference, part, bytes)
        self._phase, self._part = REST, "activations"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in (out,) if isinstance(out, Tensor) else tree_leaves(out):
            if isinstance(leaf, Tensor):
                for _, part in parts(leaf):
                    self._see(part)
        return out

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if id(storage) in self._storages:
            return
        part = self._part
        if part == "activations" and tensor.is_floating_point() and tensor.shape[-1:] == (self.vocabulary,):
            part = "logits"
        self._add(storage, part)

    def _add(self, storage: UntypedStorage, part: str) -> None:
        key, size = id(storage), storage.nbytes()

        def gone(_: object) -> None:
            _, now, _ = self._storages.pop(key)  # not `part`: it may have been claimed since
            self._bytes[now] -= size
            self._total -= size

        self._storages[key] = weakref.ref(storage, gone), part, size
        self._bytes[part] += size
        self._total += size
        self._mark()

    def forget(self) -> None:
        """The peaks and moments so far; what is alive stays counted."""
        self.peaks.clear()
        self.moments.clear()

    def _mark(self) -> None:
        if self._every:
            self.moments.setdefault(self._phase, []).append(tuple(self._bytes[part] for part in PARTS))
        if self._total >= self._highest[self._phase]:  # of equal moments the later one: more of its parts are known
            self._highest[self._phase] = self._total
            self.peaks[self._phase] = Peak(self._phase, {part: self._bytes[part] for part in PARTS})

    def claim(self, tensors: Iterable[Tensor], part: str) -> None:
        """These tensors' storages are of this part, whether they are counted already or not."""
        for tensor in (part for whole in tensors for _, part in parts(whole)):
            storage = tensor.untyped_storage()
            known = self._storages.get(id(storage))
            if known is None:
                self._add(storage, part)
            else:
                reference, old, size = known
                self._storages[id(storage)] = reference, part, size
                self._bytes[old] -= size
                self._bytes[part] += size

    @contextmanager
    def during(self, phase: str, part: str | None = None) -> Iterator[None]:
        """What is made inside belongs to this phase, and to `part` where that is given. Phases may nest."""
        before = self._phase, self._part
        self._phase, self._part = phase, part or self._part
        self._mark()
        try:
            yield
        finally:
            self._phase, self._part = before

    def follow(self, owner: Any, method: str, phase: str | None = None, part: str | None = None) -> None:
        """From now on a call of owner's method is a phase (None: part of the phase it is made in); see `during`."""
        inner: Callable[..., Any] = getattr(owner, method)

        def run(*args: Any, **kwargs: Any) -> Any:
            with self.during(phase or self._phase, part):
                return inner(*args, **kwargs)

        setattr(owner, method, run)
