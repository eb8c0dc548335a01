"""A bank of adapters: each example of a mixed batch meets its own task's p or s, packed or not, in one forward."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.float64_llama import Wide, widen
from tests.tiny_bank import KINDS, TASKS, forked, mixed, tiny_bank
from tests.tiny_bilevel import PAD
from tests.tiny_models import build, config
from zofo.data.batch import collate
from zofo.data.option_tree import option_trees
from zofo.data.tokenization import Encoded
from zofo.methods.bilevel_ablations import Penalised
from zofo.models.adapters._bank import member
from zofo.models.tree_probe import probe
from zofo.objectives import _loss as objectives


@pytest.mark.parametrize("micro", [None, 1, 2])
@pytest.mark.parametrize("objective", ["lm", "options"])
@pytest.mark.parametrize("kind", KINDS)
def test_f_of_a_mixed_batch_is_the_sum_over_its_examples(kind: str, objective: str, micro: int | None) -> None:
    b = tiny_bank(kind, objective)
    encoded = mixed(objective)
    for name in ("p", "s"):
        loss = b.loss(micro)
        with b.bank.active(name):
            value = loss(collate(encoded, PAD))
        assert value == pytest.approx(b.value(encoded, name), rel=2e-6)
        assert loss.meter.forwards == 1
    # the test can fail: with the tasks turned round, F is another number
    turned = [replace(e, example=replace(e.example, group=TASKS[-1])) for e in encoded]
    assert abs(b.value(turned, "p") - b.value(encoded, "p")) > 1e-3


def test_lora_in_float64() -> None:
    """F and G of (5) with p_i and s_i of each example's task."""
    b = tiny_bank("lora")
    wide, lam = Wide(config("llama"), 2.0, "lm"), 7.0
    f, p = mixed("lm", 0), mixed("lm", 10, (2, 0, 0, 4, 1))
    theta = widen(dict(build("llama").named_parameters()))
    theta = {n: t * 6 if t.ndim > 1 else t for n, t in theta.items()}

    def F(encoded: list[Encoded], name: str) -> float:
        nll = weight = 0.0
        for e in encoded:
            adapter = widen(b.inner.parameters(member(name, e.example.group)))
            tokens = len(e.rows[0].labels)
            nll, weight = nll + float(wide.loss(theta, adapter, [e])) * tokens, weight + tokens
        return nll / weight

    loss = b.loss()
    batch_f, batch_p = collate(f, PAD), collate(p, PAD)
    with b.bank.active("s"):
        assert loss(batch_p) == pytest.approx(F(p, "s"), rel=1e-6)
    want = F(f, "p") + lam * (F(p, "p") - F(p, "s"))
    assert Penalised(loss, b.bank, batch_f, batch_p, lam, loss)() == pytest.approx(want, abs=3e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_g_in_one_forward_and_in_several(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    b, lam = tiny_bank(kind), 7.0
    f, p = mixed("lm", 0), mixed("lm", 10, (2, 0, 0, 4, 1))
    F_f, F_p, F_s = b.value(f, "p"), b.value(p, "p"), b.value(p, "s")
    want = F_f + lam * (F_p - F_s)
    batches = collate(f, PAD), collate(p, PAD)
    counts = []
    for shared in (True, False):
        monkeypatch.setattr(objectives, "shares", lambda shapes, device, shared=shared: shared)
        loss = b.loss()
        assert Penalised(loss, b.bank, *batches, lam, loss)() == pytest.approx(want, rel=1e-5)
        terms = Penalised(loss, b.bank, *batches, lam, loss).terms()
        assert [term() for term in terms] == pytest.approx([F_f, lam * F_p, -lam * F_s], rel=1e-5)
        counts.append(loss.meter.forwards - 3)
    assert counts == ([3, 3] if kind == "ia3" else [1, 3])


@pytest.mark.parametrize("micro", [None, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_rows_of_many_tasks(kind: str, micro: int | None) -> None:
    b, plain = tiny_bank(kind, "options"), forked()
    packed = option_trees(plain, None)
    assert all(len(e.rows) == 1 and e.rows[0].branches for e in packed)
    assert probe(b.loss().scorer, list(zip(plain, packed))) == ""
    half = [*packed[:3], *plain[3:]]  # and packed beside plain ones
    for encoded in (packed, half):
        loss = b.loss(micro)
        with b.bank.active("s"):
            assert loss(collate(encoded, PAD)) == pytest.approx(b.value(plain, "s"), rel=1e-5)
    loss = b.loss(micro)
    p, s = loss.each([(collate(packed, PAD), "p"), (collate(packed, PAD), "s")])
    assert (p, s) == pytest.approx((b.value(plain, "p"), b.value(plain, "s")), rel=1e-5)
