"""Mixture: the same share for every task, each example once an epoch of its task, and a position that restores it."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise

import pytest

from zofo.data import Example
from zofo.data.batch import Batch
from zofo.data.multitask.mixture import Mixture
from zofo.data.tokenization import Encoded, Row
from zofo.errors import InputError

SIZES = {"trec": 7, "trec-finegrained": 3, "superglue-cb:a": 40, "v1.0": 1}


def encoded(sizes: dict[str, int] | None = None) -> list[Encoded]:
    """Examples that know their task and number by their one row's tokens."""
    examples = []
    for t, (task, n) in enumerate((sizes or SIZES).items()):
        for i in range(n):
            row = Row((3 + t, 10 + i), ((1, 5, 0),))
            examples.append(Encoded(Example(f"{task}/{i}", "", ("",), (0,), group=task), (row,), (0,), 1))
    return examples


def mixture(size: int = 4, seed: int = 0, name: str = "p", sizes: dict[str, int] | None = None) -> Mixture:
    return Mixture(encoded(sizes), size, 2, seed, name)


def ids(batch: Batch) -> list[str]:
    return [e.example.id for e in batch.source]


def drawn(stream: Mixture, batches: int) -> list[str]:
    return [i for _ in range(batches) for i in ids(next(stream))]


def task(example: str) -> str:
    return example.rpartition("/")[0]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 11])
def test_every_task_has_the_same_share_whatever_its_size(size: int) -> None:
    stream = mixture(size)
    counts: Counter[str] = Counter()
    for _ in range(60):
        counts.update(map(task, ids(next(stream))))
        assert max(counts.values()) - min(counts[t] for t in SIZES) <= 1
    assert set(counts) == set(SIZES)
    assert sum(counts.values()) == 60 * size


def test_tasks_come_in_rounds_in_changing_orders() -> None:
    turns = [task(i) for i in drawn(mixture(3), 40)]
    rounds = [tuple(turns[i : i + 4]) for i in range(0, len(turns), 4)]
    assert all(set(r) == set(SIZES) for r in rounds)
    assert len(set(rounds)) > 8


def test_each_example_once_in_an_epoch_of_its_task() -> None:
    drawn_ids = drawn(mixture(5), 200)
    for name, n in SIZES.items():
        task_ids = [i for i in drawn_ids if task(i) == name]
        epochs = [task_ids[i : i + n] for i in range(0, len(task_ids) - n + 1, n)]
        assert len(epochs) >= 5
        assert all(len(set(epoch)) == n for epoch in epochs)
        if n > 5:
            assert len(set(map(tuple, epochs))) == len(epochs)  # each in an order of its own


def test_a_batch_is_those_examples() -> None:
    stream = mixture(4)
    batch = next(stream)
    assert batch.examples == len(batch.source) == 4
    assert [tuple(row) for row in batch.input_ids.tolist()] == [e.rows[0].ids for e in batch.source]


@pytest.mark.parametrize("cut", range(23))
def test_a_position_restores_the_stream(cut: int) -> None:
    """At any point, and through JSON, with tasks that were chosen on the way."""

    def play(stream: Mixture, start: int, stop: int) -> list[str]:
        drawn_ids = []
        for n in range(start, stop):
            if n % 6 == 2:
                stream.among(sorted(SIZES)[n % 3 : n % 3 + 2], n)
            drawn_ids += ids(next(stream))
        return drawn_ids

    whole = play(mixture(3), 0, 40)
    first = mixture(3)
    head = play(first, 0, cut)
    state = json.loads(json.dumps(first.state_dict(), sort_keys=True))
    second = mixture(3)
    drawn(second, 5)  # wherever it was
    second.load_state_dict(state)
    assert head + play(second, cut, 40) == whole


def test_among_restricts() -> None:
    stream = mixture(4)
    drawn(stream, 3)
    stream.among(["trec", "superglue-cb:a"], 7)
    drawn_ids = drawn(stream, 10)
    assert Counter(map(task, drawn_ids)) == {"trec": 20, "superglue-cb:a": 20}
    stream.among(["v1.0"], 8)
    assert set(drawn(stream, 3)) == {"v1.0/0"}


def test_a_tasks_own_order_goes_on_across_choices() -> None:
    """What is drawn of a task does not hang on which others it was mixed with."""
    alone, mixed = mixture(1), mixture(4)
    alone.among(["trec"], 0)
    ids_alone = drawn(alone, 21)
    ids_mixed = []
    for k in range(12):
        mixed.among(["trec", ["superglue-cb:a", "trec-finegrained", "v1.0"][k % 3]], k)
        ids_mixed += [i for i in drawn(mixed, 1) if task(i) == "trec"]
    assert ids_mixed[:21] == ids_alone[: len(ids_mixed)]
    assert len(ids_mixed) == 24 or ids_mixed == ids_alone[: len(ids_mixed)]


def test_rounds_key_the_order_of_turns() -> None:
    def turns(round: object) -> list[str]:
        stream = mixture(4)
        stream.among(tuple(SIZES), round)
        return [task(i) for i in drawn(stream, 8)]

    assert turns(3) == turns(3)
    assert len({tuple(turns(k)) for k in range(6)}) > 1


def test_fixed_by_seed_and_name() -> None:
    assert drawn(mixture(), 20) == drawn(mixture(), 20)
    assert drawn(mixture(), 20) != drawn(mixture(seed=1), 20)
    assert drawn(mixture(), 20) != drawn(mixture(name="f"), 20)
    stream = mixture()
    drawn(stream, 3)
    fork = stream.fork("mask")
    assert drawn(fork, 20) == drawn(mixture(name="mask"), 20)
    rest = mixture()
    drawn(rest, 3)
    assert drawn(stream, 5) == drawn(rest, 5)  # a fork leaves the stream where it is


def test_what_the_order_of_the_list_matters_for() -> None:
    """Tasks may stand between each other in any way; the order of a task's own examples counts, and the tasks' order of
    first appearance too (it is what a round's shuffle starts from), unless `among` names them."""
    plain = encoded()
    between = sorted(plain, key=lambda e: int(e.example.id.rpartition("/")[2]))  # the tasks' first rows first
    assert between != plain
    assert drawn(Mixture(between, 4, 2, 0, "p"), 30) == drawn(mixture(), 30)
    backwards = [e for name in reversed(SIZES) for e in plain if e.example.group == name]
    one, two = mixture(), Mixture(backwards, 4, 2, 0, "p")
    for stream in (one, two):
        stream.among(("v1.0", "trec", "superglue-cb:a"), 0)
    assert drawn(one, 30) == drawn(two, 30)


def test_a_batch_larger_than_the_tasks_and_their_examples() -> None:
    drawn_ids = drawn(mixture(9, sizes={"a": 2, "b": 1}), 4)
    counts = Counter(drawn_ids)
    assert counts["b/0"] == 18
    assert counts["a/0"] == counts["a/1"] == 9


def test_one_task_alone() -> None:
    drawn_ids = drawn(mixture(3, sizes={"a": 5}), 10)
    assert all(len(set(drawn_ids[i : i + 5])) == 5 for i in range(0, 30, 5))
    stream = mixture(3, sizes={"a": 5})
    for k in range(10):  # chosen again and again: it goes on
        stream.among(["a"], k)
        assert ids(next(stream)) == drawn_ids[3 * k : 3 * k + 3]


def test_neighbouring_rounds_differ() -> None:
    turns = [task(i) for i in drawn(mixture(4), 50)]
    rounds = [turns[i : i + 4] for i in range(0, len(turns), 4)]
    assert any(a != b for a, b in pairwise(rounds))


def test_a_task_that_is_not_there() -> None:
    stream = mixture()
    stream.among(["nowhere"], 0)
    with pytest.raises(KeyError):
        next(stream)


def test_no_examples() -> None:
    with pytest.raises(InputError):
        next(Mixture([], 4, 2, 0, "p"))
