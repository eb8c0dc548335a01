"""Splitting the training examples into the two levels, at random and by label."""

from __future__ import annotations

import pytest

from zofo.data import Example, split_levels
from zofo.errors import InputError


def test_split_levels() -> None:
    train = [Example(str(i), "p", ("a",), (0,)) for i in range(1000)]
    upper, lower = split_levels(train, seed=0)
    assert (len(upper), len(lower)) == (333, 667)
    assert {e.id for e in upper} | {e.id for e in lower} == {e.id for e in train}
    assert split_levels(train, 0) == (upper, lower)
    assert split_levels(train, 1)[0] != upper
    assert [len(part) for part in split_levels(train, 0, ratio=(1, 1))] == [500, 500]
    assert [len(part) for part in split_levels(train[:2], 0)] == [1, 1]
    with pytest.raises(InputError, match="at least 2"):
        split_levels(train[:1], 0)


def labelled(*counts: int) -> list[Example]:
    """`counts[i]` examples of label i, in turn."""
    words = tuple(f" {i}" for i in range(len(counts)))
    by_label = [Example(f"{g}/{i}", f"p{i}", words, (g,)) for g, n in enumerate(counts) for i in range(n)]
    return sorted(by_label, key=lambda e: (e.prompt, e.id))


@pytest.mark.parametrize(
    ("counts", "ratio", "upper"),
    [
        ((30, 60), (1, 2), (10, 20)),
        ((70, 20, 10), (1, 2), (23, 7, 3)),  # 23.3, 6.7, 3.3 and 33 in all: the remainder of the second is largest
        ((5, 5), (1, 2), (2, 1)),  # 1.7 each and 3 in all: of equal remainders the first
        ((1, 1), (1, 2), (1, 0)),
        ((1, 99), (1, 1), (1, 49)),  # 0.5 and 49.5
        ((997, 3), (1 / 3, 2 / 3), (332, 1)),
        ((4,), (99, 1), (3,)),
    ],
)
def test_stratified_levels(counts: tuple[int, ...], ratio: tuple[float, float], upper: tuple[int, ...]) -> None:
    train = labelled(*counts)
    f, p = split_levels(train, 0, ratio, stratified=True) if len(counts) > 1 else ([], [])
    if len(counts) == 1:
        f, p = split_levels([Example(e.id, e.prompt, ("a", "b"), (0,)) for e in train], 0, ratio, stratified=True)
    assert tuple(sum(e.gold == (g,) for e in f) for g in range(len(counts))) == upper
    assert sorted(e.id for e in f + p) == sorted(e.id for e in train)
    assert (len(f), len(p)) == tuple(map(len, split_levels(train, 0, ratio))), "the totals of the random split"


def test_stratified_levels_depend_on_the_seed_alone() -> None:
    train = labelled(70, 20, 10)
    one = split_levels(train, 0, stratified=True)
    assert one == split_levels(train, 0, stratified=True)
    other = split_levels(train, 1, stratified=True)
    assert {e.id for e in one[0]} != {e.id for e in other[0]}
    assert [e.gold for e in one[0]] != sorted(e.gold for e in one[0]), "labels come mixed"


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([("a",), ("b",)], "x0 is a completion: use the random split"),
        ([("a", "b"), ("c", "d")], "x1 has answers of its own: use the random split"),
    ],
)
def test_a_stratified_split_needs_shared_labels(answers: list[tuple[str, ...]], expected: str) -> None:
    train = [Example(f"x{i % 2}", f"p{i}", answers[i % 2], (0,)) for i in range(10)]
    seed = next(s for s in range(99) if split_levels(train, s)[0][0].id == "x0")  # whose shuffle starts with x0
    with pytest.raises(InputError, match=expected):
        split_levels(train, seed, stratified=True)
