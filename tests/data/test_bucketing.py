"""Batches of similar lengths: every example once an epoch, in an order that a position alone restores."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from zofo.data import Example
from zofo.data import stream as stream_module
from zofo.data.option_tree import option_trees
from zofo.data.stream import Stream
from zofo.data.tokenization import Encoded, Row

SIZES = [(10, 4), (7, 3), (64, 8), (3, 8), (1, 4), (250, 16), (257, 16), (40, 1)]


def texts(n: int, seed: int = 0) -> list[Encoded]:
    """Examples of 2 to 60 tokens, the first of which is the example's number."""
    draw = random.Random(seed)
    lengths = [draw.randint(2, 60) for _ in range(n)]
    rows = [Row((i, *[1] * (length - 1)), ((1, 2, 0),)) for i, length in enumerate(lengths)]
    return [Encoded(Example(str(i), "p", ("a",), (0,)), (row,), (0,), 1) for i, row in enumerate(rows)]


def stream(n: int, size: int, seed: int = 1, name: str = "f", group: bool = True) -> Stream:
    return Stream(texts(n), size, 0, seed, name, group_by_length=group)


def drawn(source: Stream, batches: int) -> list[list[int]]:
    return [next(source).input_ids[:, 0].tolist() for _ in range(batches)]


def flat(batches: list[list[int]]) -> list[int]:
    return [i for batch in batches for i in batch]


@pytest.mark.parametrize(("n", "size"), SIZES)
def test_every_example_once_an_epoch_in_full_batches(n: int, size: int) -> None:
    got = drawn(stream(n, size), 5 * n // size + 1)
    assert {len(batch) for batch in got} == {size}
    epochs = [flat(got)[start : start + n] for start in range(0, 5 * n, n)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert n < 7 or len({tuple(epoch) for epoch in epochs}) == 5


@pytest.mark.parametrize(("n", "size"), SIZES)
def test_a_position_restores_the_stream(n: int, size: int) -> None:
    whole = drawn(stream(n, size), 3 * n // size + 8)
    for done in range(0, len(whole), 5):
        again = stream(n, size)
        again.load_state_dict({"position": done * size})
        assert drawn(again, len(whole) - done) == whole[done:]


def test_without_it_the_order_is_the_permutation() -> None:
    order = list(range(20))
    random.Random("1/f/0").shuffle(order)
    assert flat(drawn(stream(20, 4, group=False), 5)) == order
    assert flat(drawn(stream(20, 4), 5)) != order


def test_windows_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epoch 1 of 11 examples in batches of 2: one completes epoch 0's last, windows of two batches, none is left."""
    monkeypatch.setattr(stream_module, "WINDOW", 2)
    examples = texts(11)
    order, rng = list(range(11)), random.Random("1/f/1")
    rng.shuffle(order)
    expected = order[:1]
    for start, stop in ((1, 5), (5, 9), (9, 11)):
        window = sorted(order[start:stop], key=lambda i: examples[i].length)
        batches = [window[i : i + 2] for i in range(0, len(window), 2)]
        rng.shuffle(batches)
        expected += flat(batches)
    assert flat(drawn(stream(11, 2), 11))[11:] == expected


def test_ties_keep_the_permutations_order() -> None:
    examples = [Encoded(Example("x", "", ("",), (0,)), (Row((i, 1), ()),), (0,), 1) for i in range(9)]
    order, rng = list(range(9)), random.Random("0/f/0")
    rng.shuffle(order)
    batches = [order[i : i + 3] for i in range(0, 9, 3)]
    rng.shuffle(batches)
    assert drawn(Stream(examples, 3, 0, 0, "f", group_by_length=True), 3) == batches


def padding(n: int, size: int, group: bool) -> float:
    source = stream(n, size, group=group)
    batches = [next(source) for _ in range(n // size)]
    return 1 - sum(b.tokens for b in batches) / sum(b.input_ids.numel() for b in batches)


def test_there_is_less_padding() -> None:
    assert padding(500, 8, group=True) < 0.12 < 0.4 < padding(500, 8, group=False)


def test_batches_come_in_no_order_of_length_and_are_other_groups_each_epoch() -> None:
    source = stream(512, 8)
    epochs = [[next(source) for _ in range(64)] for _ in range(2)]
    widths = [b.input_ids.shape[1] for b in epochs[0]]
    ups = sum(a < b for a, b in itertools.pairwise(widths))
    assert 20 < ups < 43
    first, second = ({tuple(sorted(b.input_ids[:, 0].tolist())) for b in epoch} for epoch in epochs)
    assert not first & second


def test_option_trees_change_no_order() -> None:
    """Whether a model takes option trees is found out by a probe, which another machine may answer in another way."""
    draw = random.Random(3)
    plain = []
    for i in range(60):
        start = (i, *[1] * draw.randint(4, 30))
        rows = [Row((*start, number, *[2] * draw.randint(0, 9)), ((len(start), 1, 0),)) for number in (7, 8, 9)]
        plain.append(Encoded(Example(str(i), "p", ("a",), (0,)), tuple(rows), (0,), 1))
    packed = option_trees(plain, 50)
    assert 30 < sum(len(e.rows) == 1 for e in packed) < 60
    assert [e.size for e in packed] == [e.size for e in plain]
    orders = []
    for encoded in (plain, packed):
        source, order = Stream(encoded, 4, 0, 0, "f", group_by_length=True), []
        for _ in range(20):
            batch = next(source)
            first = [batch.row_example.tolist().index(e) for e in range(4)]
            order.append(batch.input_ids[first, 0].tolist())
        orders.append(order)
    assert orders[0] == orders[1]


def test_the_global_random_state_is_left_alone() -> None:
    before = random.getstate(), torch.get_rng_state()
    assert len({tuple(flat(drawn(stream(20, 4, seed, name), 5))) for seed in (0, 1) for name in "fp"}) == 4
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
