"""Batches, micro-batches, streams."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pytest
import torch

from zofo.data import Example
from zofo.data.batch import Batch, collate, concat
from zofo.data.stream import Stream, _ends, eval_batches, longest
from zofo.data.tokenization import Encoded, Row, tokenize_all
from zofo.errors import InputError

TENSORS = [
    "input_ids",
    "attention_mask",
    "positions",
    "labels",
    "option",
    "option_example",
    "gold",
    "row_example",
]


def example(prompt: str, *answers: str, gold: int = 0, id: str = "x") -> Example:
    return Example(id, prompt, answers, (gold,))


def spread(tokenizer: Any) -> list[Encoded]:
    """Examples with one to three options, short and long, sharing rows or not."""
    examples = [
        example("the dog is", " good", " great", gold=1),
        example("one two three four five. It was", " great", " terrible and dull", " good", gold=2),
        example("hello", " a very good morning"),
        example("a warm and funny film", " Yes", " No", gold=0),
    ]
    return tokenize_all(tokenizer, examples, None, "options", add_eos=False)


def check(batch: Batch, encoded: list[Encoded]) -> None:
    """Compare a batch with its examples, one label at a time."""
    rows = [(n, row) for n, e in enumerate(encoded) for row in e.rows]
    length = batch.input_ids.shape[1]
    assert length == max(len(row.ids) for _, row in rows)
    assert batch.row_example.tolist() == [n for n, _ in rows]
    assert batch.tokens == sum(len(row.ids) for _, row in rows) == int(batch.attention_mask.sum())
    assert batch.examples == len(encoded)
    for r, (_, row) in enumerate(rows):
        assert batch.input_ids[r][batch.attention_mask[r].bool()].tolist() == list(row.ids)
    base = [0, *itertools.accumulate(e.n_options for e in encoded)]
    expected = sorted(
        (base[n] + option, r * length + position, token)
        for r, (n, row) in enumerate(rows)
        for position, token, option in row.labels
    )
    assert list(zip(batch.option.tolist(), batch.positions.tolist(), batch.labels.tolist())) == expected
    assert batch.option_example.tolist() == [n for n, e in enumerate(encoded) for _ in range(e.n_options)]
    assert batch.gold.tolist() == [o in e.gold for e in encoded for o in range(e.n_options)]


def same(one: Batch, two: Batch) -> bool:
    tensors = all(torch.equal(getattr(one, name), getattr(two, name)) for name in TENSORS)
    return tensors and (one.examples, one.tokens) == (two.examples, two.tokens)


def test_collate(tiny_tokenizer: Any) -> None:
    encoded = spread(tiny_tokenizer)
    assert len({len(e.rows) for e in encoded}) > 1
    check(collate(encoded, tiny_tokenizer.pad_token_id), encoded)
    for e in encoded:
        check(collate([e], 0), [e])


def test_padding_with_eos_is_masked(tiny_tokenizer: Any) -> None:
    encoded = tokenize_all(tiny_tokenizer, [example("a", " b"), example("one two three", " four")], None, "gold", True)
    check(collate(encoded, tiny_tokenizer.eos_token_id), encoded)


@pytest.mark.parametrize("part", [slice(0, 2), slice(1, 3), slice(2, None), slice(0, 1), slice(None), slice(0, 4, 2)])
def test_select_equals_collating_the_part(tiny_tokenizer: Any, part: slice) -> None:
    encoded = spread(tiny_tokenizer)
    assert same(collate(encoded, 2).select(part), collate(encoded[part], 2))


def test_concat_equals_collating_all(tiny_tokenizer: Any) -> None:
    encoded = spread(tiny_tokenizer)
    assert same(
        concat([collate(encoded[:1], 2), collate(encoded[1:3], 2), collate(encoded[3:], 2)], 2), collate(encoded, 2)
    )
    assert concat([collate(encoded, 2)] * 2, 2).examples == 2 * len(encoded)


def loss_like(batch: Batch, table: torch.Tensor) -> torch.Tensor:
    """For each example: cross-entropy over the options' mean scores. A token's score depends on its whole prefix."""
    weights = batch.attention_mask * torch.arange(1, batch.input_ids.shape[1] + 1)
    states = torch.cumsum(table[batch.input_ids] * weights[..., None], 1).flatten(0, 1)[batch.positions]
    scores = torch.log_softmax(states @ table.T, -1).gather(1, batch.labels[:, None])[:, 0]
    options = torch.zeros(len(batch.gold), dtype=scores.dtype).index_add(0, batch.option, scores)
    options = options / torch.bincount(batch.option, minlength=len(batch.gold))
    losses = torch.zeros(batch.examples, dtype=scores.dtype)
    for n in range(batch.examples):
        mine = batch.option_example == n
        losses[n] = options[mine].logsumexp(0) - options[mine & batch.gold].logsumexp(0)
    return losses


def by_hand(encoded: Encoded, table: torch.Tensor) -> torch.Tensor:
    """The same from the rows alone, token by token."""
    options: list[list[torch.Tensor]] = [[] for _ in range(encoded.n_options)]
    for row in encoded.rows:
        for position, token, option in row.labels:
            parts = [table[i] * (t + 1) for t, i in enumerate(row.ids[: position + 1])]
            state = torch.stack(parts).sum(0)
            options[option].append(torch.log_softmax(table @ state, -1)[token])
    means = torch.stack([torch.stack(o).mean() for o in options])
    return means.logsumexp(0) - means[list(encoded.gold)].logsumexp(0)


def test_a_loss_by_hand_over_batches_parts_and_joins(tiny_tokenizer: Any) -> None:
    encoded = spread(tiny_tokenizer)
    table = torch.randn(len(tiny_tokenizer), 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 8
    expected = torch.stack([by_hand(e, table) for e in encoded])
    whole = collate(encoded, 2)
    parts = [whole.select(slice(0, 1)), whole.select(slice(1, 4))]
    torch.testing.assert_close(loss_like(whole, table), expected)
    torch.testing.assert_close(torch.cat([loss_like(b, table) for b in parts]), expected)
    torch.testing.assert_close(loss_like(concat(parts[::-1], 2), table), expected[[1, 2, 3, 0]])


def test_to_moves_every_tensor(tiny_tokenizer: Any) -> None:
    moved = collate(spread(tiny_tokenizer), 2).to("meta")
    assert all(getattr(moved, name).device.type == "meta" for name in TENSORS)


# --------------------------------------------------------------------------------------------------------- streams


def numbered(n: int) -> list[Encoded]:
    """Encoded examples whose first token is their number."""
    return [Encoded(example("p", "a", id=str(i)), (Row((i, 1), ((1, 2, 0),)),), (0,), 1) for i in range(n)]


def drawn(stream: Stream, batches: int) -> list[int]:
    return [i for _ in range(batches) for i in next(stream).input_ids[:, 0].tolist()]


def test_every_example_once_an_epoch() -> None:
    got = drawn(Stream(numbered(10), 4, 0, seed=1, name="f"), 10)
    assert len(got) == 40
    for start in range(0, 40, 10):
        assert sorted(got[start : start + 10]) == list(range(10))
    assert got[:10] != got[10:20]


def test_stream_continues_from_its_position() -> None:
    whole = drawn(Stream(numbered(7), 3, 0, seed=5, name="p"), 12)
    first = Stream(numbered(7), 3, 0, seed=5, name="p")
    head = drawn(first, 5)
    again = Stream(numbered(7), 3, 0, seed=5, name="p")
    again.load_state_dict(first.state_dict())
    assert first.state_dict() == {"position": 15}
    assert head + drawn(again, 7) == whole


def test_streams_differ_by_seed_and_name_and_leave_random_alone() -> None:
    before = random.getstate(), torch.get_rng_state()
    orders = {tuple(drawn(Stream(numbered(20), 20, 0, seed, name), 1)) for seed in (0, 1) for name in ("f", "p")}
    assert len(orders) == 4
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_a_batch_larger_than_the_data_goes_round() -> None:
    assert sorted(drawn(Stream(numbered(3), 6, 0, 0, "f"), 1)) == [0, 0, 1, 1, 2, 2]


def test_an_empty_stream_is_an_error() -> None:
    with pytest.raises(InputError, match="no training examples"):
        Stream([], 4, 0, 0, "f")


def test_eval_batches_cover_all_longest_first(tiny_tokenizer: Any) -> None:
    encoded = spread(tiny_tokenizer)
    seen: list[int] = []
    lengths = []
    for indices, batch in eval_batches(encoded, 3, 2):
        check(batch, [encoded[i] for i in indices])
        seen += indices
        lengths.append(batch.input_ids.shape[1])
    assert sorted(seen) == list(range(len(encoded)))
    assert lengths == sorted(lengths, reverse=True)


def cheapest(shapes: list[tuple[int, int]], most: int, forward: float) -> float:
    """Of all ways to cut the examples into batches, by trying each."""
    if not shapes:
        return 0.0
    batches = (shapes[: n + 1] for n in range(min(most, len(shapes))))
    return min(
        forward + sum(rows for rows, _ in batch) * batch[0][1] + cheapest(shapes[len(batch) :], most, forward)
        for batch in batches
    )


@pytest.mark.parametrize("most", [1, 3, 32])
@pytest.mark.parametrize("forward", [0.0, 5.0, 56.0, 1e6])
def test_evaluations_batches_are_the_cheapest_there_are(most: int, forward: float) -> None:
    rng = random.Random(most)
    for _ in range(20):
        lengths = sorted((int(rng.lognormvariate(3, 0.8)) + 1 for _ in range(rng.randint(1, 10))), reverse=True)
        shapes = [(rng.choice((1, 1, 2, 4)), length) for length in lengths]
        ends = _ends(shapes, most, forward)
        batches = [shapes[start:end] for start, end in zip([0, *ends], ends)]
        assert [shape for batch in batches for shape in batch] == shapes
        assert max(map(len, batches)) <= most
        cost = sum(forward + sum(rows for rows, _ in batch) * batch[0][1] for batch in batches)
        assert cost == cheapest(shapes, most, forward)
    assert _ends([], most, forward) == []


def test_without_a_price_of_a_forward_batches_are_full() -> None:
    assert _ends([(1, 9)] * 7, 3, math.inf) == [3, 6, 7]
    assert _ends([(1, 100)] * 40 + [(1, 3)] * 400, 10**6, math.inf) == [440]
    assert _ends([(1, 100)] * 40 + [(1, 3)] * 400, 10**6, 56.0) == [40, 184, 440]


def test_longest(tiny_tokenizer: Any) -> None:
    encoded = spread(tiny_tokenizer)
    assert longest(encoded, 1)[0] is encoded[1]
    assert len(longest(encoded, 99)) == len(encoded)
