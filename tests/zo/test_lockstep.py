"""Two sides of an estimate that take turns: the values of one after the other, and what ends one of them."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from zofo.zo.direction import Direction
from zofo.zo.lockstep import Lockstep
from zofo.zo.move import Move

LAYERS = 5


def shifted(*terms: tuple[int, float]) -> Move:
    move = Move()
    move.set(list(terms), Direction(terms[0][0]), None)
    return move


def forward(sides: Lockstep, move: Move, seen: list[tuple[int, float]]) -> Callable[[], Tensor]:
    def compute() -> Tensor:
        total = torch.zeros(1)
        for layer in range(LAYERS):
            sides.turn()
            seen.append((layer, move.terms[0][1]))
            total = total * 2 + move.terms[0][1]
        return total

    return compute


def test_a_layer_serves_both_sides_before_the_next() -> None:
    sides, move, seen = Lockstep(), shifted((3, 1.0)), list[tuple[int, float]]()
    compute = forward(sides, move, seen)
    with sides.both(move, [(3, -1.0)]):
        first = sides.evaluate(compute, torch.tensor([4]))
    with sides.second():
        second = sides.evaluate(compute, torch.tensor([4]))
    assert seen == [(layer, side) for layer in range(LAYERS) for side in (1.0, -1.0)]
    assert first == -second == 2**LAYERS - 1
    assert move.terms == [(3, 1.0)]


def test_no_gradient_is_kept_on_either_side() -> None:
    sides, move, weight = Lockstep(), shifted((3, 1.0)), torch.ones(1, requires_grad=True)
    with torch.no_grad(), sides.both(move, [(3, -1.0)]):
        sides.evaluate(lambda: weight * 2)
    with sides.second():
        assert not sides.evaluate(lambda: weight * 2).requires_grad
    assert sides.evaluate(lambda: weight * 2).requires_grad


def test_other_inputs_are_computed_anew() -> None:
    """What is asked of the second side need not be what was asked of the first."""
    sides, move = Lockstep(), shifted((3, 1.0))
    calls = []

    def compute() -> Tensor:
        calls.append(move.terms[0][1])
        return torch.tensor([move.terms[0][1]])

    with sides.both(move, [(3, -1.0)]):
        sides.evaluate(compute, torch.tensor([1]))
        sides.evaluate(compute, torch.tensor([2]))
    assert calls == [1.0, -1.0] * 2
    with sides.second():
        assert sides.evaluate(compute, torch.tensor([1])) == -1
        assert sides.evaluate(compute, torch.tensor([7])) == 1  # at the point as it is
        assert sides.evaluate(compute, torch.tensor([2])) == 1
    assert calls == [1.0, -1.0, 1.0, -1.0, 1.0, 1.0]


@pytest.mark.parametrize("failing", [1.0, -1.0], ids=["first", "second"])
@pytest.mark.parametrize("layer", [0, 2, LAYERS - 1])
def test_a_side_that_fails_ends_both(failing: float, layer: int) -> None:
    """Its error is told, no thread is left waiting, and the next estimate is made as if nothing had been."""
    sides, move, seen = Lockstep(), shifted((3, 1.0)), list[tuple[int, float]]()
    plain = forward(sides, move, seen)

    def compute() -> Tensor:
        for number in range(LAYERS):
            sides.turn()
            if (number, move.terms[0][1]) == (layer, failing):
                raise ValueError(f"{number} at {failing}")
        return torch.zeros(1)

    with pytest.raises(ValueError, match=f"{layer} at {failing}"), sides.both(move, [(3, -1.0)]):
        sides.evaluate(compute)
    assert move.terms == [(3, 1.0)]
    with sides.both(move, [(3, -1.0)]):
        assert sides.evaluate(plain) == 2**LAYERS - 1
    with sides.second():
        assert sides.evaluate(plain) == 1 - 2**LAYERS
    assert sum(thread.name.startswith("zofo-second-side") for thread in threading.enumerate()) >= 1


def test_sides_of_different_lengths() -> None:
    """A forward of fewer layers goes on alone."""
    sides, move = Lockstep(), shifted((3, 1.0))

    def compute() -> Tensor:
        layers = 2 if move.terms[0][1] > 0 else 6
        for _ in range(layers):
            sides.turn()
        return torch.tensor([layers])

    for shift, (here, there) in ((1.0, (2, 6)), (-1.0, (6, 2))):
        move.set([(3, shift)], Direction(3), None)
        with sides.both(move, [(3, -shift)]):
            assert sides.evaluate(compute) == here
        with sides.second():
            assert sides.evaluate(compute) == there
