"""Option trees: what they hold, which examples are worth it, and batches of them and of plain rows."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from tests.option_rows import pairs, with_options
from tests.tiny_models import PAD
from zofo.data import Example
from zofo.data.batch import Batch, collate, concat
from zofo.data.option_tree import option_trees
from zofo.data.stream import eval_batches, longest
from zofo.data.tokenization import Encoded, Row

TENSORS = [f.name for f in dataclasses.fields(Batch) if f.name not in ("examples", "tokens", "source")]


# -------------------------------------------------------------------------------------- what becomes an option tree


def tree_example(*rows: Row, options: int = 2) -> Encoded:
    return Encoded(Example("x", "", ("",) * options, (0,)), rows, (0,), options)


ONE = Row((7, 5, 6, 8, 11, 12), ((3, 11, 0), (4, 12, 0), (5, 13, 0)))
TWO = Row((7, 5, 6, 8, 21), ((3, 21, 1), (4, 22, 1)))


def test_a_packed_row_by_hand() -> None:
    (packed,) = option_trees([tree_example(ONE, TWO)], None)
    labels = ((3, 11, 0), (4, 12, 0), (5, 13, 0), (3, 21, 1), (6, 22, 1))
    assert packed.rows == (Row((7, 5, 6, 8, 11, 12, 21), labels, (4, 6)),)
    assert packed.length == 7
    batch = collate([packed, tree_example(Row((1,) * 9, ((8, 3, 0),)), options=1)], PAD)
    assert batch.segments is not None
    assert batch.segments.tolist() == [[0, 0, 0, 0, 1, 1, 2, 0, 0], [0] * 9]
    assert batch.tokens == 16
    inputs = batch.inputs()
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 4, 0, 0], list(range(9))]
    seen = inputs["attention_mask"]
    assert seen.shape == (2, 1, 9, 9)
    assert [row.nonzero().flatten().tolist() for row in seen[0, 0]] == [
        [0],
        [0, 1],
        [0, 1, 2],
        [0, 1, 2, 3],
        [0, 1, 2, 3, 4],
        [0, 1, 2, 3, 4, 5],
        [0, 1, 2, 3, 6],
        [0, 1, 2, 3],
        [0, 1, 2, 3],  # padding sees something, and nothing sees it
    ]
    assert torch.equal(seen[1, 0], torch.ones(9, 9, dtype=torch.bool).tril())


def test_only_what_is_worth_it_is_packed() -> None:
    both = tree_example(ONE, TWO)
    assert option_trees([both], 7)[0] is not both
    assert option_trees([both], 6)[0] is both  # it would not fit
    alone, short = tree_example(ONE), tree_example(Row(ONE.ids[1:], ()), Row(TWO.ids[1:], ()))
    long = tree_example(Row((*ONE.ids, *range(30, 60)), ()), Row((*TWO.ids, *range(30, 60)), ()))
    plain = [alone, short, long]
    assert all(before is after for before, after in pairs(plain))
    again = option_trees([both], None)
    assert option_trees(again, None)[0] is again[0]


def test_plain_batches_are_called_as_ever(tiny_tokenizer: Any) -> None:
    encoded = with_options(tiny_tokenizer)
    batch = collate([encoded[2], encoded[3]], PAD)
    assert batch.segments is None
    assert set(batch.inputs()) == {"input_ids", "attention_mask"}


def same(one: Batch, two: Batch) -> bool:
    assert one.source == two.source
    for name in TENSORS:
        a, b = getattr(one, name), getattr(two, name)
        if (a is None) != (b is None) or (a is not None and not torch.equal(a, b)):
            return False
    return (one.examples, one.tokens) == (two.examples, two.tokens)


@pytest.mark.parametrize("part", [slice(0, 2), slice(2, 4), slice(1, 4), slice(4, 5), slice(0, 5, 2)])
def test_parts_and_joins_of_packed_and_plain_examples(tiny_tokenizer: Any, part: slice) -> None:
    encoded = option_trees(with_options(tiny_tokenizer), None)
    assert [bool(e.rows[0].branches) for e in encoded] == [True, True, False, False, True]
    whole = collate(encoded, PAD)
    assert same(whole.select(part), collate(encoded[part], PAD))
    assert (whole.select(slice(2, 4)).segments, collate(encoded[2:4], PAD).segments) == (None, None)
    assert same(concat([collate(encoded[:2], PAD), collate(encoded[2:4], PAD), collate(encoded[4:], PAD)], PAD), whole)
    assert concat([collate(encoded[2:4], PAD)] * 2, PAD).segments is None
    assert all(getattr(whole.to("meta"), name).device.type == "meta" for name in TENSORS)


def test_longest_and_order_go_by_packed_lengths(tiny_tokenizer: Any) -> None:
    encoded = option_trees(with_options(tiny_tokenizer), None)
    assert encoded[0].length > with_options(tiny_tokenizer)[0].length
    assert longest(encoded, 1)[0].length == max(e.length for e in encoded)
    widths = [batch.input_ids.shape[1] for _, batch in eval_batches(encoded, 1, PAD)]
    assert widths == sorted(widths, reverse=True)
