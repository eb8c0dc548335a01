"""Moments that are not kept: they are made again in each step, slice by slice, from the last h seeds and coefficients.

What a rule keeps is a *window*: of each step its terms (seed, coefficient), its law and its support, some 12 bytes a
term. For a slice of theta the rule's numbers start at 0 and take the steps of the window in their order, so after them
they are what a rule that began h steps ago would have kept. A step costs h makings of z.

The window of a tensor are the last h steps in which something of it moved: with `blocks` they lie far apart. A weight
that rested in one of them keeps its numbers there, as with the rules that store theirs. Of past supports

    None, Chance   are made again
    Indices        must be the present ones: only then are they the weights that moved
    Band           must be the present one. A weight outside a band rests, and stays outside, so one that is in it now
                   was in it in every step of the window, though theta is another. Not so under a band that is renewed

and what else there is raises ValueError; `faults` refuses it before a run.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from zofo.zo.direction import Direction
from zofo.zo.journal import Outcome
from zofo.zo.low_rank import LowRank
from zofo.zo.rules._base import Base, Rounded
from zofo.zo.support import Band, Chance, Indices, Part, Support, inside

if TYPE_CHECKING:
    from torch import Tensor

    from zofo.zo.dense_update import Piece
    from zofo.zo.grad import ZOGrad
    from zofo.zo.move import Move
    from zofo.zo.point import Point


@dataclass(frozen=True)
class Config(Rounded):
    h: int = field(
        default=10,
        metadata={"help": "steps whose estimates the moments are made of", "paper": "authors' example: 10", "ge": 1},
    )

    def faults(self, parts: Mapping[str, Any]) -> list[str]:
        mask = parts.get("mask")
        if mask is not None and mask.by_magnitude and mask.renewed is not None:
            return [
                "rule.h: which weights the bands of before a refresh moved is not known any more, so past estimates "
                "cannot be made again; leave mask.refresh out, or use a rule that keeps its numbers"
            ]
        return []


@dataclass(frozen=True)
class Past:
    """One step. terms: (seed, fp32 coefficient, the direction's stretch in it); z: its law and support."""

    terms: tuple[tuple[int, float], ...]
    z: Direction

    def has(self, name: str) -> bool:
        """Whether something of a tensor moved."""
        return self.z.support is None or name in self.z.support.parts

    def part(self, name: str) -> Part:
        return None if self.z.support is None else self.z.support.parts[name]


class Rebuilt(Base):
    """A rule whose numbers are made of the last h steps. State: these steps. 0 extra bytes a weight, 2 with `split`."""

    numbers: ClassVar[tuple[str, ...]] = ()  # what is made again for each weight, from 0
    config: Any

    def __init__(self, config: Any, seed: int) -> None:
        super().__init__(config, seed)
        self.window: tuple[Past, ...] = ()

    def begin(self, lr: float) -> None:
        """What a step computes once."""

    @abstractmethod
    def fold(self, g: Tensor, **numbers: Tensor) -> None:
        """Take one step's g into the numbers, in place. fp32 [n] each; g may be overwritten. Bits as in `Dense`."""

    @abstractmethod
    def delta(self, **numbers: Tensor) -> Tensor:
        """fp32 [n]: the step of these weights."""

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
        self._remember(theta, Past(tuple(theta.terms(g, 1.0)), g.terms[0][1]))
        moves = {id(past): _move_of(past, theta) for past in self.window}
        of = {name: [past for past in self.window if past.has(name)][-self.config.h :] for name in theta}

        def move(piece: Piece) -> Tensor:
            *before, now = of[piece.at.name]
            numbers = {name: piece.g.new_zeros(piece.g.shape) for name in self.numbers}
            for past in before:
                self._fold(past, now, moves[id(past)], piece, numbers)
            self.fold(piece.g, **numbers)
            return self.delta(**numbers)

        theta.apply_(g, move, *self.rounding(theta, step))
        return Outcome.APPLIED

    def _remember(self, theta: Point, new: Past) -> None:
        """Take a step into the window; those go that no tensor has among its last h any more."""
        kept, counts = [], Counter[str]()
        for past in (new, *reversed(self.window)):
            names = [*(theta if past.z.support is None else past.z.support.parts)]
            if any(counts[name] < self.config.h for name in names):
                kept.append(past)
            counts.update(names)
        self.window = tuple(reversed(kept))

    def _fold(self, past: Past, now: Past, move: Move, piece: Piece, numbers: dict[str, Tensor]) -> None:
        import torch

        then, part, at = past.part(piece.at.name), now.part(piece.at.name), piece.at
        if isinstance(part, Indices):
            g = move.dense_chosen(part, at, piece.here)
        else:
            g = move.dense(at, piece.here.start, piece.g.numel(), piece.g.device)
        if (then is None and not isinstance(part, Indices)) or _same(then, part):
            self.fold(g, **numbers)
        elif isinstance(then, Chance) and not isinstance(part, Indices):
            moved = inside(then, piece.weights, at.key, piece.where)
            rested = {name: numbers[name].clone() for name in numbers}
            self.fold(g, **numbers)
            for name, values in numbers.items():
                torch.where(moved, values, rested[name], out=values)
        else:
            raise ValueError(
                f"the estimates of the last {self.config.h} steps cannot be made again for {at.name}: another band or "
                f"other indices moved then; give the mask no refresh, or use a rule that keeps its numbers"
            )

    def state_dict(self) -> dict[str, Any]:
        supports: dict[int, Support] = {}
        for past in self.window:
            if past.z.support is not None:
                supports[id(past.z.support)] = past.z.support
        number = {key: i for i, key in enumerate(supports)}
        steps = [
            [number.get(id(p.z.support)), _law_out(p.z.law), [list(term) for term in p.terms]] for p in self.window
        ]
        window = {"steps": steps, "supports": {str(i): _bytes(s) for i, s in enumerate(supports.values())}}
        return {**super().state_dict(), "window": window}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError, LookupError or TypeError for what is no window."""
        super().load_state_dict(state)
        read, supports = state["window"], {}
        for key, raw in read["supports"].items():
            supports[int(key)] = Support.unpack(bytes(raw.numpy()))
        self.window = tuple(
            Past(
                tuple((int(seed), float(c)) for seed, c in terms),
                Direction(terms[0][0], _law_in(law), None if number is None else supports[number]),
            )
            for number, law, terms in read["steps"]
        )

    def fits(self, theta: Point, masked: bool) -> None:
        super().fits(theta, masked)
        for past in self.window:
            for name, part in () if past.z.support is None else past.z.support.parts.items():
                if name not in theta:
                    raise ValueError(f"the rule's window is of another model: it has {name}")
                if isinstance(part, Indices) and len(part.at) and int(part.at[-1]) >= theta[name].numel():
                    raise ValueError(f"the rule's window is of another model: {name} has fewer weights")


def _move_of(past: Past, theta: Point) -> Move:
    from zofo.zo.move import Move

    move = Move(theta.bases)
    move.set(past.terms, past.z, None)
    return move


def _same(then: Part, now: Part) -> bool:
    """Whether two parts are of the same weights, whatever theta was."""
    if then is now:
        return True
    if isinstance(then, Indices) and isinstance(now, Indices):
        return len(then.at) == len(now.at) and bool((then.at.to(now.at.device) == now.at).all())
    return isinstance(then, (Band, Chance)) and then == now


def _law_out(law: str | LowRank) -> str | list[Any]:
    return law if isinstance(law, str) else [law.kind, law.rank, law.basis]


def _law_in(law: str | list[Any]) -> str | LowRank:
    return law if isinstance(law, str) else LowRank(law[0], int(law[1]), int(law[2]))


def _bytes(support: Support) -> Tensor:
    import torch

    return torch.frombuffer(bytearray(support.pack()), dtype=torch.uint8)
