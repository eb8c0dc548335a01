"""Gradients of a bank: a member's are those of its own task's examples, and members of absent tasks rest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.float64_llama import Wide, gradient, widen
from tests.tensors_by_name import values
from tests.tiny_bank import KINDS, ORDER, TASKS, forked, grads, mixed, new_bank, scatter, tiny_bank
from tests.tiny_bilevel import PAD
from tests.tiny_models import build, config
from zofo.data.batch import collate
from zofo.data.option_tree import option_trees
from zofo.methods._first_order import Descent
from zofo.models.adapters import lora
from zofo.models.adapters._bank import member
from zofo.models.label_head import LabelHead
from zofo.models.scorer import Scorer
from zofo.models.tree_probe import probe
from zofo.objectives import lm
from zofo.objectives._loss import Loss


@pytest.mark.parametrize(("micro", "checkpointed"), [(None, False), (1, False), (2, False), (None, True), (2, True)])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_each_tasks_own_examples(kind: str, micro: int | None, checkpointed: bool) -> None:
    """A member's gradient is that of its sub-batch alone, times the sub-batch's share of the tokens."""
    if kind == "prefix" and checkpointed:
        return  # refused by name, in _config_check
    b = tiny_bank(kind, "lm", checkpointed)
    encoded, scale = mixed("lm"), 3.0
    loss = b.loss(micro)
    with b.bank.active("p"):
        value = loss.backward(collate(encoded, PAD), scale)
    assert value == pytest.approx(b.value(encoded, "p"), rel=2e-6)
    tokens = {e.example.id: len(e.rows[0].labels) for e in encoded}
    got, plain = grads(b.bank, "p"), tiny_bank(kind)  # layers that are computed again want their adapter active still
    for task in TASKS:
        of_task = [e for e in encoded if e.example.group == task]
        params = plain.inner.parameters(member("p", task))
        mine = {key: got[f"{task}: {key}"] for key in params}
        if not of_task:
            assert all(g is None for g in mine.values())
            continue
        share = sum(tokens[e.example.id] for e in of_task) / sum(tokens.values())
        sums, weights = zip(*(plain.alone(e, "p") for e in of_task))
        want = gradient(torch.cat(sums).sum() / torch.cat(weights).sum(), list(params.values()))
        biggest = max(float(g.abs().max()) for g in want)
        assert biggest > 1e-4
        for (_key, g), w in zip(mine.items(), want):
            assert g is not None
            torch.testing.assert_close(g, scale * share * w, rtol=2e-4, atol=2e-5 * biggest * scale)
    assert all(g is None for g in grads(b.bank, "s").values())
    assert b.bank.current == "p"


@pytest.mark.parametrize("family", ["llama-untied", "opt", "gpt2", "qwen2", "mistral", "gemma2", "mamba", "mixtral"])
def test_mixed_rows_of_every_family(family: str) -> None:
    """LoRA's mixed rows with gradients, which PEFT made for inference: values and gradients by sub-batches alone."""
    encoded, results = mixed("lm"), []
    for micro in (None, 1):  # 1: no batch has two tasks
        model = build(family)
        scorer = Scorer(model, LabelHead(model), PAD, torch.device("cpu"))
        adapter = lora.Adapter(lora.Config(r=4, target_modules=["in_proj", "x_proj"] if family == "mamba" else None))
        _, bank = new_bank(model, adapter)
        scatter(bank, "p")
        loss = Loss(replace(scorer, model=bank.model), lm.Objective(), bank, micro)
        with bank.active("p"):
            value = loss(collate(encoded, PAD))
            assert loss.backward(collate(encoded, PAD)) == pytest.approx(value, rel=1e-6)
        results.append((value, grads(bank, "p")))
    (value, g), (other, h) = results
    assert value == pytest.approx(other, rel=1e-5)
    biggest = max(float(t.abs().max()) for t in h.values() if t is not None)
    for key in g:
        a, b = g[key], h[key]
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * biggest)


def test_gradients_of_lora_in_float64() -> None:
    b = tiny_bank("lora")
    encoded, wide = mixed("lm"), Wide(config("llama"), 2.0, "lm")
    theta = {n: t * 6 if t.ndim > 1 else t for n, t in widen(dict(build("llama").named_parameters())).items()}
    with b.bank.active("s"):
        b.loss().backward(collate(encoded, PAD))
    total = sum(len(e.rows[0].labels) for e in encoded)
    for task in {e.example.group for e in encoded}:
        of_task = [e for e in encoded if e.example.group == task]
        params = b.inner.parameters(member("s", task))
        at = {key: value.requires_grad_(True) for key, value in widen(params).items()}
        share = sum(len(e.rows[0].labels) for e in of_task) / total
        want = gradient(wide.loss(theta, at, of_task) * share, list(at.values()))
        biggest = max(float(g.abs().max()) for g in want)
        for (key, p), w in zip(params.items(), want):
            assert p.grad is not None, key
            torch.testing.assert_close(p.grad.double(), w, rtol=2e-4, atol=2e-5 * biggest)


def test_packed_gradients_with_options() -> None:
    """objective options, packed rows, micro-batches and checkpointing at once: the same gradients as plain rows."""
    gradients = []
    for packed, micro, checkpointed in ((False, None, False), (True, None, False), (True, 2, True)):
        b = tiny_bank("lora", "options", checkpointed)
        encoded = forked()
        if packed:
            encoded = option_trees(encoded, None)
            assert probe(b.loss().scorer, list(zip(forked(), encoded))) == ""
        with b.bank.active("p"):
            b.loss(micro).backward(collate(encoded, PAD))
        gradients.append(grads(b.bank, "p"))
    for other in gradients[1:]:
        for key, g in gradients[0].items():
            h = other[key]
            assert (g is None) == (h is None)
            if g is not None and h is not None:
                torch.testing.assert_close(h, g, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_members_of_absent_tasks_rest(kind: str) -> None:
    """No gradient, no move, no count: AdamW's first step of a task is its first step whenever it comes."""
    b = tiny_bank(kind)
    params = b.bank.parameters("s")
    opt = Descent(params, "adamw", max_grad_norm=1.0)
    loss, batch = b.loss(), collate(mixed("lm"), PAD)

    def step(batch: Any) -> None:
        with b.bank.active("s"):
            loss.backward(batch)
        opt.step(0.1)

    start = values(params)
    step(batch)
    step(batch)
    present = {TASKS[t] for t in ORDER}
    state = opt.state_dict()
    assert {key.split(": ")[0] for key in state} == present
    assert {float(s["step"]) for s in state.values()} == {2.0}
    middle = values(params)
    for key, value in params.items():
        moved = not torch.equal(value, start[key])
        assert moved == (key.split(": ")[0] in present), key
    absent = TASKS[4]
    assert absent not in present
    step(collate(mixed("lm", 3, (4, 4)), PAD))
    for key, value in params.items():
        task = key.split(": ")[0]
        assert torch.equal(value, middle[key]) == (task != absent)
        assert float(opt.state_dict()[key]["step"]) == (1.0 if task == absent else 2.0)
    # its first AdamW step is of the rate's size, as in a run of its own
    moves = [(params[k] - start[k]).detach().abs().max() for k in params if k.startswith(f"{absent}: ")]
    assert float(max(moves)) == pytest.approx(0.1, rel=1e-2)
