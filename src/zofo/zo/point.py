"""Point: theta, the set of tensors that zeroth-order updates move, tied tensors once (docs/algorithms.md)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from zofo.zo import digests, dtensors
from zofo.zo.dense_update import Room, Step, apply
from zofo.zo.direction import Direction
from zofo.zo.grad import ZOGrad, float32
from zofo.zo.kernels.reference import Terms
from zofo.zo.keys import Address
from zofo.zo.laws import SPHERE
from zofo.zo.low_rank_rows import Store
from zofo.zo.move import Move, Planes, planes_of
from zofo.zo.quantized import weights
from zofo.zo.series import Series
from zofo.zo.shards import WHOLE, Gathered, Shards
from zofo.zo.sphere import Stretches
from zofo.zo.support import Band
from zofo.zo.swap import Places

MODES = ("layer", "copy", "inplace")
Value = TypeVar("Value")


class UnshiftableError(RuntimeError):
    """A weight of theta is read where no stand-in can reach it."""


class Point(Mapping[str, Tensor]):
    """theta as {canonical name: tensor}; names are those of the unwrapped model's checkpoint.

    Build it before PEFT wraps the model: the parameter objects and their modules stay, their names would not.
    """

    def __init__(
        self,
        model: nn.Module,
        names: set[str] | None = None,
        mode: str = "layer",
        params: Mapping[str, nn.Parameter] | None = None,
        shards: Shards = WHOLE,
    ) -> None:
        """names: the tensors of theta, or None for every floating-point parameter. Their requires_grad becomes False.

        params: theta itself as {canonical name: parameter of model}, for names that the wrapped model does not give
        (an adapter's). It excludes `names`. Raises ValueError for a parameter that is not the model's or comes twice.

        mode `layer`: theta is never written during an estimate, a shifted weight exists while a function reads it.
        `copy`: the same, with all shifted weights in a second copy, made once a shift: for generation and many
        micro-batches. `inplace`: MeZO's arithmetic, theta + eps z - eps z, which drifts in every dtype.
        shards: those that hold theta together, of which each has parts of the tensors; what concerns all of theta is
        asked of all of them at once.
        """
        if mode not in MODES:
            raise ValueError(f"unknown shift mode {mode!r}; known: {', '.join(MODES)}")
        if names is not None and params is not None:
            raise ValueError("give names or params, not both")
        self.mode = mode
        self.bases: Store = {}  # of the law subzero
        self._move = Move(self.bases)
        self._pending: list[tuple[int, float]] = []  # terms that bring theta back, of the last estimate in place
        self._pending_of = Direction(0)
        self._series: Series | None = None  # updates that wait, inside `waiting`
        self._stretches = Stretches()
        self.shards, chosen = shards, weights(model, names) if params is None else params
        held: dict[str, Any] = {name: param.requires_grad_(False) for name, param in chosen.items()}
        self._params: dict[str, Tensor] = {name: dtensors.here(param) for name, param in held.items()}
        self.addresses = {name: Address.of(name, p.shape, dtensors.window(p)) for name, p in held.items()}
        if len({at.key for at in self.addresses.values()}) != len(self.addresses):
            raise ValueError("two tensor names share a 64-bit key; rename one of them")
        self._places = Places(model, held, self.addresses, self._move)

    def __getitem__(self, name: str) -> Tensor:
        return self.params[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._params)

    def __len__(self) -> int:
        return len(self._params)

    @property
    def size(self) -> int:
        """d, the number of weights, those that others hold included."""
        return sum(math.prod(at.shape) for at in self.addresses.values())

    @property
    def nbytes(self) -> int:
        return sum(p.numel() * p.element_size() for p in self._params.values())

    @property
    def scratch_bytes(self) -> int:
        """Bytes of shifted weights: what the stand-ins' scratch has grown to, and the copy of mode `copy`."""
        return self._places.scratch.nbytes + self._places.copied_bytes

    @property
    def params(self) -> dict[str, Tensor]:
        """{canonical name: tensor}, settled."""
        self.settle()
        return self._params

    @contextmanager
    def shifted(
        self,
        move: ZOGrad | Direction,
        scale: float,
        rounding: str | int | None = "stochastic",
        low: Planes | None = None,
    ) -> Iterator[None]:
        """The model computes at theta + scale * move inside this context; only mode `inplace` writes theta for it.

        In bf16 and fp16 the shifted weight is rounded stochastically with the direction's own rounding key, the same
        for every scale, or "nearest". A number or None is the key of an update's rounding as `add_` takes it, and
        `low` its planes: the model computes then where that update would bring it. Not re-entrant. No gradients flow
        to theta.
        """
        if self._move.terms:
            raise RuntimeError("theta is already shifted: two shifts cannot be nested")
        if self._places.moved():
            raise RuntimeError("the model was moved or cast after its Point was built; build the Point last")
        Point.settle(self)  # what the layers of a `PagedPoint` are to do they do when they are read
        self._check_place(first := _first(move))
        key = {"stochastic": first.rounding_seed, "nearest": None}[rounding] if isinstance(rounding, str) else rounding
        self._move.set(self.terms(move, scale), first, None if self.mode == "inplace" else key, low)
        try:
            if self.mode == "copy":
                entered = self._places.copies()
            else:
                entered = self._places.standins() if self.mode == "layer" else self._inplace(first)
            with torch.no_grad(), entered:
                yield
        finally:
            self._move.terms = ()

    def deferring(self) -> AbstractContextManager[None]:
        """See `PagedPoint`; here every update is made at once."""
        return nullcontext()

    @contextmanager
    def _inplace(self, z: Direction) -> Iterator[None]:
        terms = self._move.terms
        self._add(terms, z, None)
        try:
            yield
        finally:
            self._add([(seed, -factor) for seed, factor in terms], z, None)

    def _check_place(self, z: Direction) -> None:
        parts = () if z.support is None else z.support.parts.values()
        if self.mode == "inplace" and any(isinstance(part, Band) for part in parts):
            raise ValueError("mode inplace overwrites the magnitudes that decide which weights move; use layer or copy")

    @contextmanager
    def anchored(self, anchor: Mapping[str, Tensor]) -> Iterator[None]:
        """Shifts start from these values inside, in place of theta's: tensors of its names, shapes and dtypes.

        A band of magnitudes is still read off theta. Raises RuntimeError in mode `inplace`.
        """
        if self.mode == "inplace":
            raise RuntimeError("mode inplace shifts theta itself, so it cannot start from an anchor")
        with self._places.anchored(anchor):
            yield

    def sides(self, f: Callable[[], Value], z: Direction, eps: float, rounding: str) -> tuple[Value, Value]:
        """f at theta + eps z and at theta - eps z.

        In mode `inplace` by MeZO's passes, + eps and - 2 eps. Its third, + eps, is left to the next `add_`, which
        restores and updates in one pass, or to `settle`, by which everything else begins that reads theta here. (So a
        reader between an estimate and its update parts that pass: other last bits than those of a replay.)
        """
        if self.mode != "inplace":
            with self.shifted(z, +eps, rounding):
                plus = f()
            with self.shifted(z, -eps, rounding):
                return plus, f()
        self.settle()
        self._check_place(z)
        self._add(self.terms(z, +eps), z, None)
        plus = f()
        self._add(self.terms(z, -2 * eps), z, None)
        self._pending, self._pending_of = list(self.terms(z, +eps)), z
        return plus, f()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Updates of `add_` may wait inside, on a CPU, and are made many in one pass, with the same bits. Who reads
        theta here finds them made; the model's own tensors are up to date after it."""
        if self.mode != "inplace" and all(param.device.type == "cpu" for param in self._params.values()):
            self._series = Series(self._params, self.addresses, self.bases)
        try:
            yield
        finally:
            self.settle()
            self._series = None

    def settle(self) -> None:
        """Do what waits: updates, or what an estimate in mode `inplace` left to restore."""
        if self._series:
            self._series.make()
        if self._pending:
            terms, self._pending = self._pending, []
            self._add(terms, self._pending_of, None)

    @contextmanager
    def trainable(self) -> Iterator[None]:
        """theta's tensors take gradients inside, for first-order steps; after it none, and `.grad` is None."""
        params = self.params.values()
        try:
            for param in params:
                param.requires_grad_(True)
            yield
        finally:
            for param in params:
                param.requires_grad_(False)
                param.grad = None

    def add_(self, g: ZOGrad, scale: float, round_seed: int | None, low: Planes | None = None) -> None:
        """theta <- round(theta + sum_i fp32(scale c_i) z_i), one pass, one rounding.

        round_seed: key of the stochastic rounding of bf16 and fp16 weights; None rounds to nearest. low: the residual
        planes of `planes`, by which bf16 weights move as fp32 numbers, without a rounding.
        What an estimate in mode `inplace` left to restore goes into the same pass.
        """
        z, terms = _first(g), self.terms(g, scale)
        left = self._pending_of
        if self._pending and (low or (left.law, left.entries, left.support) != (z.law, z.entries, z.support)):
            self.settle()
        terms, self._pending = [*self._pending, *terms], []
        (self._series.put if self._series else self._add)(terms, z, round_seed, low)
        self._stretches.forget()

    def planes(self, kept: Planes | None = None) -> Planes:
        """Residual planes of the bf16 tensors: int16 in their shapes, 2 bytes a weight. Zeros, or `kept`, there.

        A weight and its plane are the halves of one fp32 number (`kernels.split`); the weight is what the model reads.
        """
        return planes_of(self._params, kept)

    def apply_(
        self, g: ZOGrad, step: Step, round_seed: int | None, low: Planes | None = None, room: Room | None = None
    ) -> None:
        """theta <- round(theta + step(g)), for rules that are not linear in g; one rounding, keyed as in `add_`.

        step, room: see `dense_update.Step` and `dense_update.apply`.
        """
        move = Move(self.bases)
        move.set(self.terms(g, 1.0), _first(g), round_seed, low)
        with torch.no_grad():
            apply(move, self.params, self.addresses, step, room)
        self._stretches.forget()

    def _add(self, terms: Terms, z: Direction, round_seed: int | None, low: Planes | None = None) -> None:
        move = Move(self.bases)
        move.set(terms, z, round_seed, low)
        with torch.no_grad():
            move.add_all((param, param, self.addresses[name]) for name, param in self._params.items())

    def terms(self, move: ZOGrad | Direction, scale: float) -> Terms:
        """(seed, fp32(scale c_i r_i)) of each term, as the kernels take them; r_i is the direction's stretch."""
        if isinstance(move, Direction):
            return [(move.seed, float32(scale * self.stretch(move)))]
        return [(z.seed, float32(scale * c * self.stretch(z))) for c, z in move.terms]

    def stretch(self, z: Direction) -> float:
        """What its law and support multiply z's entries by: the support's scale, and on the sphere also
        sqrt(d / sum of squares), both of the weights that move. The sum is one of integers, exact; it takes a pass over
        theta's elements and is remembered for the last seeds.
        """
        scale = 1.0 if z.support is None else z.support.scale
        if z.law != SPHERE:
            return scale
        reads = z.support is not None and any(isinstance(part, Band) for part in z.support.parts.values())
        return scale * self._stretches(self.params if reads else self._params, self.addresses, z, self.shards)

    def audit(self, forward: Callable[[], object]) -> set[str]:
        """Run `forward` shifted and check that no weight of theta is read unshifted. Returns the names never read.

        Raises UnshiftableError naming weights that some module keeps a second reference to.
        """
        if self.mode == "inplace":
            return set()  # the weights themselves are shifted, so every read meets the shift
        self._move.set(self.terms(Direction(0), 1e-3), Direction(0), None)
        try:
            unshifted, unread = self._places.audit(forward)
        finally:
            self._move.terms = ()
        if unshifted:
            names = ", ".join(sorted(unshifted))
            raise UnshiftableError(f"cannot be shifted, a module reads them past its parameters: {names}")
        return unread

    @property
    def whole(self) -> Mapping[str, Tensor]:
        """The tensors as of a whole model, each put together on the CPU when it is read, by all that hold theta."""
        return self.params if self.shards.size == 1 else Gathered(self.params, self.addresses, self.shards)

    def sha256(self) -> dict[str, str]:
        """SHA-256 of each tensor's bytes as of a whole model, row-major and little endian."""
        return digests.sha256_of_each(self.whole, self.shards.size == 1)

    def catalogue(self, sums: Mapping[str, str] | None = None) -> list[dict]:
        """The tensors in order as a journal's header lists them (docs/journal.md). sums: `sha256`, where known."""
        shapes = {name: list(at.shape) for name, at in self.addresses.items()}
        return digests.catalogue(self.params, shapes, self.sha256() if sums is None else sums)

    def digest(self, sums: Mapping[str, str] | None = None) -> str:
        """One SHA-256 over the names and digests of all tensors, in the order of their names. sums: see `catalogue`."""
        return digests.digest(self.sha256() if sums is None else sums)


def _first(move: ZOGrad | Direction) -> Direction:
    return move if isinstance(move, Direction) else move.terms[0][1]
