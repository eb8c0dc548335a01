"""What every rule that moves theta by numbers shares: how the move is rounded in bf16 and fp16, and dense states."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from zofo.zo.grad import ZOGrad, float32
from zofo.zo.journal import Outcome
from zofo.zo.keys import derive

if TYPE_CHECKING:
    from torch import Tensor

    from zofo.zo.dense_update import Piece
    from zofo.zo.point import Point
    from zofo.zo.rules._state import State


@dataclass(frozen=True)
class Rounded:
    stateful: ClassVar[bool] = False  # whether numbers are kept for every weight, beside `split`'s

    rounding: Literal["stochastic", "nearest", "split"] = field(
        default="stochastic",
        metadata={
            "help": "an update of a bf16 or fp16 weight: right on average; to nearest, which loses small updates; or "
            "split: 16 more bits a bf16 weight, as exact as fp32"
        },
    )


@dataclass(frozen=True)
class Kept(Rounded):
    stateful: ClassVar[bool] = True

    state: Literal["float32", "bfloat16", "8bit"] = field(
        default="float32", metadata={"help": "how the numbers kept for every weight are stored"}
    )


class Base(ABC):
    """A zeroth-order gradient -> a move of theta.

    State: with rounding `split`, the residual planes of theta's bf16 tensors: int16 in their shapes.
    largest: coefficients beyond it are refused.
    """

    largest: ClassVar[float] = math.inf

    def __init__(self, config: Any, seed: int) -> None:
        """seed: the run's seed, from which each step's rounding key is derived."""
        self.config, self.seed = config, seed
        self.low: Mapping[str, Tensor] | None = None

    @abstractmethod
    def update_(
        self,
        theta: Point,
        g: ZOGrad,
        lr: float,
        step: int,
        f: Callable[[], float] | None = None,
        outcome: Outcome | None = None,
    ) -> Outcome:
        """Move theta. f: the objective, for a rule that looks. outcome: the journal's, in a replay."""

    @property
    def dense_bytes(self) -> float:
        """A weight's share of the rule's state beside `split`'s plane, of weights that can move."""
        return 0.0

    @property
    def bytes_per_weight(self) -> float:
        """Extra bytes a weight."""
        return self.dense_bytes + (2.0 if self.config.rounding == "split" else 0.0)

    def rounding(self, theta: Point, step: int) -> tuple[int | None, Mapping[str, Tensor] | None]:
        """(key of this step's stochastic rounding or None, residual planes or None), as `Point.add_` takes them."""
        if self.config.rounding == "split":
            self.low = theta.planes(self.low)  # loaded on the CPU
            return None, self.low
        return derive(self.seed, "round/update", step) if self.config.rounding == "stochastic" else None, None

    def state_dict(self) -> dict[str, Any]:
        """The planes are the rule's own tensors, not copies: save them before the next update."""
        return {} if self.low is None else {"low": dict(self.low)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.low = {name: plane.clone() for name, plane in state["low"].items()} if "low" in state else None

    def fits(self, theta: Point, masked: bool) -> None:
        """After a loading. masked: numbers may be kept of some of a tensor's weights. Raises ValueError for another
        model's."""
        for name, plane in (self.low or {}).items():
            if name not in theta or plane.shape != theta[name].shape:
                raise ValueError(f"the residual plane of {name} is of another model")


class Scaled(Base):
    """A rule whose step is the estimate with other coefficients: no number is kept for a weight."""

    @abstractmethod
    def scaled(self, coefficients: Sequence[float]) -> list[float]:
        """What is added in place of a step's coefficients, in their order.

        Only IEEE operations in double precision that round the same everywhere (no pow, no exp), so that a replay
        elsewhere gives the same bits.
        """

    def update_(
        self,
        theta: Point,
        g: ZOGrad,
        lr: float,
        step: int,
        f: Callable[[], float] | None = None,
        outcome: Outcome | None = None,
    ) -> Outcome:
        """Move theta in one pass with one rounding. f: unused here. outcome: the journal's, in a replay."""
        if outcome is Outcome.SKIPPED:
            return Outcome.SKIPPED
        scaled = self.scaled([c for c, _ in g.terms])
        terms = tuple((float32(c), z) for c, (_, z) in zip(scaled, g.terms))
        theta.add_(ZOGrad(terms, g.value, 0), -lr, *self.rounding(theta, step))
        return Outcome.APPLIED


class Dense(Base):
    """A rule whose step is no multiple of g: `formula` for some weights at a time, with numbers kept for each of them.

    A weight outside the direction's support is left alone, and so are its numbers, as torch.optim.SparseAdam leaves
    those of absent rows. What a rule counts, such as Adam's powers, counts the steps of the run.
    """

    keeps: ClassVar[Mapping[str, bool]] = {}  # {name of a state: whether it has a sign}

    def __init__(self, config: Any, seed: int) -> None:
        super().__init__(config, seed)
        self.states: dict[str, State] = {}

    @property
    def dense_bytes(self) -> float:
        from zofo.zo.rules._state import BYTES

        return len(self.keeps) * BYTES[self.config.state] if self.keeps else 0.0

    def begin(self, lr: float) -> None:
        """What a step computes once."""

    @abstractmethod
    def formula(self, piece: Piece, **state: Tensor) -> Tensor:
        """fp32 [n]: the step of these weights. state: fp32 [n] each, changed in place to their new values.

        One IEEE operation at a time, so that a replay elsewhere has the same bits: addcmul, lerp and alpha= may be
        fused on one machine and not on another. Only tensors are divided by: a division by a number may become a
        multiplication by its reciprocal.
        """

    def update_(
        self,
        theta: Point,
        g: ZOGrad,
        lr: float,
        step: int,
        f: Callable[[], float] | None = None,
        outcome: Outcome | None = None,
    ) -> Outcome:
        """Move theta, slice by slice, with one rounding. f: unused here. outcome: the journal's, in a replay."""
        if outcome is Outcome.SKIPPED:
            return Outcome.SKIPPED
        self.begin(lr)
        seeds = {name: derive(self.seed, f"round/{name}", step) for name in self._made()}

        def move(piece: Piece) -> Tensor:
            name, copy = piece.at.name, piece.moves is not None
            read = {k: s.read(name, piece.shape, piece.here, piece.g, copy) for k, s in self.states.items()}
            delta = self.formula(piece, **read)
            for key, state in self.states.items():
                state.write(name, piece.here, read[key], piece.moves, piece.at.key, seeds[key], piece.where)
            return delta

        def room(name: str, shape: tuple[int, ...], like: Tensor) -> None:
            for state in self.states.values():
                state.room(name, shape, like)

        theta.apply_(g, move, *self.rounding(theta, step), room=room)
        return Outcome.APPLIED

    def _made(self) -> dict[str, State]:
        from zofo.zo.rules._state import State

        if not self.states:
            self.states = {name: State(self.config.state, signed) for name, signed in self.keeps.items()}
        return self.states

    def state_dict(self) -> dict[str, Any]:
        """The rule's own tensors, not copies: save them before the next update."""
        return {**super().state_dict(), **{name: state.state_dict() for name, state in self.states.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        for name, kind in self._made().items():
            kind.load_state_dict(state.get(name, {}))

    def fits(self, theta: Point, masked: bool) -> None:
        """As the rule's planes, so its numbers."""
        super().fits(theta, masked)
        for state in self.states.values():
            state.fits(theta, masked)
