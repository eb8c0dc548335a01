"""Which parts of an estimate go through one forward, and that it changes no value."""

from __future__ import annotations

import pytest
import torch

from tests.tiny_bank import ADAPTERS, KINDS, Words, forked
from tests.tiny_bilevel import SEED, examples, lively, world
from tests.tiny_models import PAD, build, cpu_loss
from zofo.data.batch import collate
from zofo.data.option_tree import option_trees
from zofo.data.stream import FORWARD_TOKENS
from zofo.objectives import _loss
from zofo.objectives._loss import SHARED_TOKENS, shares


def test_small_batches_share_and_large_ones_do_not() -> None:
    assert shares([(4, 64)] * 3, "cpu")
    assert not shares([(8, 64)] * 3, "cpu")
    assert shares([(8, 64)] * 3, "cuda")
    at_most = SHARED_TOKENS["cpu"]
    assert shares([(1, at_most // 2)] * 2, "cpu")
    assert not shares([(1, at_most // 2 + 1)] * 2, "cpu")


def test_padding_must_cost_less_than_the_forwards_that_are_saved() -> None:
    """One row of 10 tokens beside one that is longer by FORWARD_TOKENS, or one less."""
    assert not shares([(1, 10), (1, 10 + FORWARD_TOKENS)], "cpu")
    assert shares([(1, 10), (1, 10 + FORWARD_TOKENS - 1)], "cpu")
    assert shares([(1, 10), (1, 10), (1, 10 + FORWARD_TOKENS - 1)], "cpu")  # two forwards saved, twice the padding


def test_the_groups_and_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """All parts; p and s on their batch, B_f alone; each alone: 1, 2 and 3 forwards, the same losses."""
    w = world("options")
    f, p = collate(w.f[0], PAD), collate(w.p[0], PAD)
    parts = [(f, "p"), (p, "p"), (p, "s")]
    values, forwards = [], []
    rows = len(p.input_ids) * p.input_ids.shape[1]
    for bound in (10_000, 2 * rows, 0):
        monkeypatch.setitem(_loss.SHARED_TOKENS, "cpu", bound)
        before = w.loss.meter.forwards
        values.append(w.loss.each(parts))
        forwards.append(w.loss.meter.forwards - before)
    assert forwards == [1, 2, 3]
    for losses in values[:2]:
        assert losses == pytest.approx(values[2], rel=1e-5)
    assert values[2][1] != values[2][0]


def test_an_adapter_that_cannot_mix_rows_never_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    w = world("options")
    monkeypatch.setattr(w.adapters, "mixes", False)
    f, p = collate(w.f[0], PAD), collate(w.p[0], PAD)
    before = w.loss.meter.forwards
    w.loss.each([(f, "p"), (p, "p"), (p, "s")])
    assert w.loss.meter.forwards == before + 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_of_the_parts_alone_to_the_bit(
    kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each adapter, 3 or 6 examples, longer and shorter than those beside them, with and without option trees."""
    monkeypatch.setattr(_loss, "shares", lambda *_: True)
    model = lively(build("llama")).to(dtype)
    adapters = ADAPTERS[kind].build(model, ("p", "s"), SEED, Words())
    generator = torch.Generator().manual_seed(5)
    for tensor in adapters.parameters("s").values():
        tensor.data += 0.2 * torch.randn(tensor.shape, generator=generator)
    adapters.copy("s", "p")
    loss = cpu_loss(model, "options", adapters)
    trees, rows = option_trees(forked(), None), examples("options", 6, 0)
    for first, other in ((rows, trees), (trees, rows), (rows, examples("options", 6, 1)), (rows[:3], trees)):
        f, p = collate(first, PAD), collate(other, PAD)
        parts = [(f, "p"), (p, "p"), (p, "s")]
        assert loss._groups([batch for batch, _ in parts])[0] == ([0, 1, 2] if adapters.mixes else [0])
        whole = loss.each(parts)
        assert loss.first(parts) == whole[0]
        assert whole[1] == whole[2]
