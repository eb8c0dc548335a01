"""A bank of adapters: each example of a mixed batch meets its own task's p or s, for values, gradients and files.

The other side is each example alone, unpadded, under its own task's adapter; for LoRA in float64 (float64_llama.py).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.float64_llama import Wide, gradient, widen
from tests.tiny_bilevel import PAD, SEED, examples, lively, one_thread
from tests.tiny_models import VOCAB, build, config
from zofo.data import Example
from zofo.data.batch import collate
from zofo.data.option_tree import pack
from zofo.data.tokenization import Encoded, Row
from zofo.errors import InputError
from zofo.methods._first_order import Descent
from zofo.methods.bilevel_zofo import Penalised
from zofo.models.activation_checkpointing import recompute_layers
from zofo.models.adapters import dept, ia3, lora, prefix, prompt
from zofo.models.adapters._bank import Bank, mean, member
from zofo.models.adapters._set import AdapterSet
from zofo.models.label_head import LabelHead
from zofo.models.tree_probe import probe
from zofo.objectives import OBJECTIVES
from zofo.objectives import _loss as objectives
from zofo.objectives._loss import Loss

# names that begin like others, and those with what torch's and PEFT's names are split at
TASKS = ("trec", "trec-finegrained", "superglue-cb:a", "v1.0-notes", "tr")
ORDER = (0, 3, 0, 1, 3, 2)  # the task of each example of a mixed batch; the last task is absent
SETTINGS: dict[str, Any] = {
    "lora": lora.Adapter(lora.Config(r=4, alpha=8)),
    "prefix": prefix.Adapter(prefix.Config(tokens=3)),
    "prompt": prompt.Adapter(prompt.Config(tokens=3)),
    "dept": dept.Adapter(dept.Config(tokens=2, r=2, max_length=16)),
    "ia3": ia3.Adapter(ia3.Config()),
}
KINDS = tuple(SETTINGS)


@pytest.fixture(autouse=True)
def few_threads() -> Iterator[None]:
    with one_thread():
        yield


class Words:
    """What the soft adapters need of a tokenizer."""

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [5, 6, 7]}


@dataclass
class Bench:
    model: Any
    inner: AdapterSet
    bank: Bank
    head: LabelHead
    objective: str
    checkpointed: bool

    def loss(self, micro: int | None = None) -> Loss:
        return Loss(
            self.bank.model, self.head, OBJECTIVES[self.objective], PAD, torch.device("cpu"), self.bank, micro,
            recomputes=self.checkpointed,
        )  # fmt: skip

    def alone(self, e: Encoded, name: str) -> tuple[Tensor, Tensor]:
        """(sum, weight) [1] of one example by itself, under its own task's adapter, with the graph."""
        plain = Loss(self.inner.model, self.head, OBJECTIVES[self.objective], PAD, torch.device("cpu"), None)
        with self.inner.active(member(name, e.example.group)):
            return plain._sums(collate([e], PAD))

    def value(self, some: list[Encoded], name: str) -> float:
        """F by its definition: the sum over examples, over their weights."""
        with torch.no_grad():
            sums, weights = zip(*(self.alone(e, name) for e in some))
        return float(torch.cat(sums).double().sum() / torch.cat(weights).double().sum())


def bench(kind: str = "lora", objective: str = "lm", checkpointed: bool = False) -> Bench:
    """Every member differs from every other, and all are away from their start."""
    model = lively(build("llama"))
    head = LabelHead(model)
    if checkpointed:
        recompute_layers(model)
    inner = SETTINGS[kind].build(model, Bank.all_members(("p", "s"), TASKS), SEED, Words())
    bank = Bank(inner, ("p", "s"), TASKS)
    generator = torch.Generator().manual_seed(5)
    for name in ("p", "s"):
        for tensor in bank.parameters(name).values():
            tensor.data += 0.2 * torch.randn(tensor.shape, generator=generator)
    return Bench(model, inner, bank, head, objective, checkpointed)


def mixed(objective: str, seed: int = 0, order: tuple[int, ...] = ORDER) -> list[Encoded]:
    some = examples(objective, len(order), seed)
    return [replace(e, example=replace(e.example, group=TASKS[t])) for e, t in zip(some, order)]


def forked(seed: int = 1) -> list[Encoded]:
    """Examples whose options share a long prompt, so that packing pays."""
    rng, found = random.Random(seed), []
    for i, t in enumerate(ORDER):
        prompt = [rng.randrange(3, VOCAB) for _ in range(9)]
        rows = []
        for option in range(3):
            answer = [rng.randrange(3, VOCAB) for _ in range(2 + option % 2)]
            labels = tuple((len(prompt) - 1 + n, token, option) for n, token in enumerate(answer))
            rows.append(Row((*prompt, *answer[:-1]), labels))
        example = Example(f"f/{i}", "", ("", "", ""), (0,), group=TASKS[t])
        found.append(Encoded(example, tuple(rows), (rng.randrange(3),), 3))
    return found


def grads(bank: Bank, name: str) -> dict[str, Tensor | None]:
    return {key: None if p.grad is None else p.grad.clone() for key, p in bank.parameters(name).items()}


def values(tensors: Any) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in tensors.items()}


def same(one: Any, two: Any) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# --------------------------------------------------------------------------------------------------------- values of F


@pytest.mark.parametrize("micro", [None, 1, 2])
@pytest.mark.parametrize("objective", ["lm", "options"])
@pytest.mark.parametrize("kind", KINDS)
def test_f_of_a_mixed_batch_is_the_sum_over_its_examples(kind: str, objective: str, micro: int | None) -> None:
    b = bench(kind, objective)
    some = mixed(objective)
    for name in ("p", "s"):
        loss = b.loss(micro)
        with b.bank.active(name):
            found = loss(collate(some, PAD))
        assert found == pytest.approx(b.value(some, name), rel=2e-6)
        assert loss.meter.forwards == 1
    # the test can fail: with the tasks turned round, F is another number
    turned = [replace(e, example=replace(e.example, group=TASKS[-1])) for e in some]
    assert abs(b.value(turned, "p") - b.value(some, "p")) > 1e-3


def test_lora_in_float64() -> None:
    """F and G of (5) with p_i and s_i of each example's task."""
    b = bench("lora")
    wide, lam = Wide(config("llama"), 2.0, "lm"), 7.0
    f, p = mixed("lm", 0), mixed("lm", 10, (2, 0, 0, 4, 1))
    theta = widen(dict(build("llama").named_parameters()))
    theta = {n: t * 6 if t.ndim > 1 else t for n, t in theta.items()}

    def F(some: list[Encoded], name: str) -> float:
        nll = weight = 0.0
        for e in some:
            own = widen(b.inner.parameters(member(name, e.example.group)))
            tokens = len(e.rows[0].labels)
            nll, weight = nll + float(wide.loss(theta, own, [e])) * tokens, weight + tokens
        return nll / weight

    loss = b.loss()
    batch_f, batch_p = collate(f, PAD), collate(p, PAD)
    with b.bank.active("s"):
        assert loss(batch_p) == pytest.approx(F(p, "s"), rel=1e-6)
    want = F(f, "p") + lam * (F(p, "p") - F(p, "s"))
    assert Penalised(loss, b.bank, batch_f, batch_p, lam)() == pytest.approx(want, abs=3e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_g_in_one_forward_and_in_several(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    b, lam = bench(kind), 7.0
    f, p = mixed("lm", 0), mixed("lm", 10, (2, 0, 0, 4, 1))
    F_f, F_p, F_s = b.value(f, "p"), b.value(p, "p"), b.value(p, "s")
    want = F_f + lam * (F_p - F_s)
    batches = collate(f, PAD), collate(p, PAD)
    counts = []
    for shared in (True, False):
        monkeypatch.setattr(objectives, "shares", lambda shapes, device, shared=shared: shared)
        loss = b.loss()
        assert Penalised(loss, b.bank, *batches, lam)() == pytest.approx(want, rel=1e-5)
        terms = Penalised(loss, b.bank, *batches, lam).terms()
        assert [term() for term in terms] == pytest.approx([F_f, lam * F_p, -lam * F_s], rel=1e-5)
        counts.append(loss.meter.forwards - 3)
    assert counts == ([3, 3] if kind == "ia3" else [1, 3])


@pytest.mark.parametrize("micro", [None, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_rows_of_many_tasks(kind: str, micro: int | None) -> None:
    b, plain = bench(kind, "options"), forked()
    packed = pack(plain, None)
    assert all(len(e.rows) == 1 and e.rows[0].branches for e in packed)
    assert probe(b.loss(), list(zip(plain, packed))) == ""
    half = [*packed[:3], *plain[3:]]  # and packed beside plain ones
    for some in (packed, half):
        loss = b.loss(micro)
        with b.bank.active("s"):
            assert loss(collate(some, PAD)) == pytest.approx(b.value(plain, "s"), rel=1e-5)
    loss = b.loss(micro)
    p, s = loss.each([(collate(packed, PAD), "p"), (collate(packed, PAD), "s")])
    assert (p, s) == pytest.approx((b.value(plain, "p"), b.value(plain, "s")), rel=1e-5)


# ----------------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize(("micro", "checkpointed"), [(None, False), (1, False), (2, False), (None, True), (2, True)])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_each_tasks_own_examples(kind: str, micro: int | None, checkpointed: bool) -> None:
    """A member's gradient is that of its sub-batch alone, times the sub-batch's share of the tokens."""
    if kind == "prefix" and checkpointed:
        return  # refused by name, in _config_check
    b = bench(kind, "lm", checkpointed)
    some, scale = mixed("lm"), 3.0
    loss = b.loss(micro)
    with b.bank.active("p"):
        found = loss.backward(collate(some, PAD), scale)
    assert found == pytest.approx(b.value(some, "p"), rel=2e-6)
    tokens = {e.example.id: len(e.rows[0].labels) for e in some}
    got, plain = grads(b.bank, "p"), bench(kind)  # layers that are computed again want their adapter active still
    for task in TASKS:
        own = [e for e in some if e.example.group == task]
        params = plain.inner.parameters(member("p", task))
        mine = {key: got[f"{task}: {key}"] for key in params}
        if not own:
            assert all(g is None for g in mine.values())
            continue
        share = sum(tokens[e.example.id] for e in own) / sum(tokens.values())
        sums, weights = zip(*(plain.alone(e, "p") for e in own))
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
    some, results = mixed("lm"), []
    for micro in (None, 1):  # 1: no batch has two tasks
        model = build(family)
        head = LabelHead(model)
        adapter = lora.Adapter(lora.Config(r=4, target_modules=["in_proj", "x_proj"] if family == "mamba" else None))
        inner = adapter.build(model, Bank.all_members(("p", "s"), TASKS), SEED, Words())
        bank = Bank(inner, ("p", "s"), TASKS)
        generator = torch.Generator().manual_seed(5)
        for tensor in bank.parameters("p").values():
            tensor.data += 0.2 * torch.randn(tensor.shape, generator=generator)
        loss = Loss(bank.model, head, OBJECTIVES["lm"], PAD, torch.device("cpu"), bank, micro)
        with bank.active("p"):
            value = loss(collate(some, PAD))
            assert loss.backward(collate(some, PAD)) == pytest.approx(value, rel=1e-6)
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
    b = bench("lora")
    some, wide = mixed("lm"), Wide(config("llama"), 2.0, "lm")
    theta = {n: t * 6 if t.ndim > 1 else t for n, t in widen(dict(build("llama").named_parameters())).items()}
    with b.bank.active("s"):
        b.loss().backward(collate(some, PAD))
    total = sum(len(e.rows[0].labels) for e in some)
    for task in {e.example.group for e in some}:
        own = [e for e in some if e.example.group == task]
        params = b.inner.parameters(member("s", task))
        at = {key: value.requires_grad_(True) for key, value in widen(params).items()}
        share = sum(len(e.rows[0].labels) for e in own) / total
        want = gradient(wide.loss(theta, at, own) * share, list(at.values()))
        biggest = max(float(g.abs().max()) for g in want)
        for (key, p), w in zip(params.items(), want):
            assert p.grad is not None, key
            torch.testing.assert_close(p.grad.double(), w, rtol=2e-4, atol=2e-5 * biggest)


def test_packed_gradients_with_options() -> None:
    """objective options, packed rows, micro-batches and checkpointing at once: the same gradients as plain rows."""
    found = []
    for packed, micro, checkpointed in ((False, None, False), (True, None, False), (True, 2, True)):
        b = bench("lora", "options", checkpointed)
        some = forked()
        if packed:
            some = pack(some, None)
            assert probe(b.loss(), list(zip(forked(), some))) == ""
        with b.bank.active("p"):
            b.loss(micro).backward(collate(some, PAD))
        found.append(grads(b.bank, "p"))
    for other in found[1:]:
        for key, g in found[0].items():
            h = other[key]
            assert (g is None) == (h is None)
            if g is not None and h is not None:
                torch.testing.assert_close(h, g, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_members_of_absent_tasks_rest(kind: str) -> None:
    """No gradient, no move, no count: AdamW's first step of a task is its first step whenever it comes."""
    b = bench(kind)
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
        own = key.split(": ")[0]
        assert torch.equal(value, middle[key]) == (own != absent)
        assert float(opt.state_dict()[key]["step"]) == (1.0 if own == absent else 2.0)
    # its first AdamW step is of the rate's size, as in a run of its own
    moves = [(params[k] - start[k]).detach().abs().max() for k in params if k.startswith(f"{absent}: ")]
    assert float(max(moves)) == pytest.approx(0.1, rel=1e-2)


# ------------------------------------------------------------------------------------------- the bare model and copies


def bare_loss() -> Loss:
    """F of a model that never had an adapter."""
    model = lively(build("llama"))
    return Loss(model, LabelHead(model), OBJECTIVES["lm"], PAD, torch.device("cpu"))


@pytest.mark.parametrize("kind", KINDS)
def test_without_is_the_bare_model(kind: str) -> None:
    b, some = bench(kind), mixed("lm")
    batch = collate(some, PAD)
    want = bare_loss()(batch)
    loss = b.loss()
    with b.bank.active("s"):
        before, state = loss(batch), {n: values(b.bank.state(n)) for n in ("p", "s")}
        with b.bank.without():
            direct = Loss(b.bank.model, b.head, OBJECTIVES["lm"], PAD, torch.device("cpu"))(batch)
            assert direct == want
        assert loss(batch) == before != want
        assert b.bank.current == "s"
    assert all(same(state[n], b.bank.state(n)) for n in ("p", "s"))
    assert all(p.requires_grad for n in ("p", "s") for p in b.bank.parameters(n).values())
    unwrapped = Loss(b.bank.unwrap(), b.head, OBJECTIVES["lm"], PAD, torch.device("cpu"))
    assert unwrapped(batch) == want


@pytest.mark.parametrize("kind", KINDS)
def test_without_holds_for_a_loss_with_the_bank(kind: str) -> None:
    """How the evaluation of theta alone is made: the run's own Loss, on examples of many tasks."""
    b, some = bench(kind), mixed("lm")
    bare, batch = bare_loss(), collate(some, PAD)
    with torch.no_grad():
        want = bare.head.logprobs(bare.model, batch)
        with b.bank.without():
            assert torch.equal(b.head.logprobs(b.bank.model, batch), want)


@pytest.mark.parametrize("kind", KINDS)
def test_copy_put_and_state(kind: str) -> None:
    b = bench(kind)
    bank = b.bank
    p, s = values(bank.parameters("p")), values(bank.parameters("s"))
    assert list(p) == list(s)
    per_task = {t: [k for k in p if k.startswith(f"{t}: ")] for t in TASKS}
    assert sum(map(len, per_task.values())) == len(p)
    assert len({len(keys) for keys in per_task.values()}) == 1
    assert not any(torch.equal(p[k], s[k]) for k in p)
    one = [p[k] for k in per_task["trec"]]
    assert not any(torch.equal(x, p[k]) for x, k in zip(one, per_task["trec-finegrained"]))
    bank.copy("p", "s")
    assert same(values(bank.parameters("s")), p)
    bank.put("s", s)
    assert same(values(bank.parameters("s")), s)
    assert same(values(bank.parameters("p")), p)
    for task in TASKS:  # the state of a member is its own alone
        own, whole = b.inner.state(member("s", task)), bank.state("s")
        mine = {k.removeprefix(f"{task}/"): v for k, v in whole.items() if k.startswith(f"{task}/")}
        assert same(own, mine)
        assert own
    saved = {k: v.clone() for k, v in bank.state("p").items()}
    bank.load("s", saved)
    assert same(values(bank.parameters("s")), p)
    assert bank.size("p") == sum(t.numel() for t in p.values()) == len(TASKS) * b.inner.size(member("p", "trec"))


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_restore(kind: str, tmp_path: Path) -> None:
    b, other = bench(kind), bench(kind)
    for name in ("p", "s"):
        b.bank.save(name, tmp_path / name, "some/model")
    for name in ("p", "s"):
        for tensor in other.bank.parameters(name).values():
            tensor.data.normal_()
    folders = sorted(path.name for path in (tmp_path / "p").iterdir())
    assert folders == sorted(TASKS)
    for name in ("p", "s"):
        other.bank.restore(name, tmp_path / name)
        assert same(values(other.bank.parameters(name)), values(b.bank.parameters(name)))
    again = tmp_path / "again"
    other.bank.save("p", again, "some/model")
    for path in sorted((tmp_path / "p").rglob("*")):
        if path.is_file():
            assert (again / path.relative_to(tmp_path / "p")).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("kind", ["lora", "ia3", "prefix"])
def test_a_members_directory_opens_with_peft(kind: str, tmp_path: Path) -> None:
    """A PEFT directory for each task: the plain library computes with it what the bank computes."""
    from zofo.models.adapters._open import open_adapter

    b = bench(kind)
    b.bank.save("s", tmp_path / "s", "some/model")
    e = mixed("lm")[1]
    with torch.no_grad():
        want = b.alone(e, "s")[0]
    model, _ = open_adapter(tmp_path / "s" / e.example.group, lively(build("llama")), Words())
    ids = torch.tensor([e.rows[0].ids])
    with torch.no_grad():
        logp = torch.log_softmax(model(input_ids=ids).logits[0], -1)
    assert -sum(float(logp[t, token]) for t, token, _ in e.rows[0].labels) == pytest.approx(float(want), rel=1e-4)


def test_redraw_draws_every_member_anew() -> None:
    def fresh() -> Bank:
        inner = SETTINGS["lora"].build(build("llama"), Bank.all_members(("p", "s"), TASKS), SEED, Words())
        return Bank(inner, ("p", "s"), TASKS)

    bank = fresh()
    p = values(bank.parameters("p"))
    bank.redraw("s", 11)
    s = values(bank.parameters("s"))
    assert same(values(bank.parameters("p")), p)
    drawn = [key for key in s if "lora_A" in key]
    assert drawn
    assert all(not torch.equal(s[k], p[k]) for k in drawn)
    by_task = [[s[k] for k in drawn if k.startswith(f"{t}: ")] for t in TASKS]
    assert not torch.equal(by_task[0][0], by_task[1][0])  # each task has a draw of its own
    assert all(not s[k].any() for k in s if "lora_B" in k)
    again = fresh()
    again.redraw("s", 11)
    assert same(values(again.parameters("s")), s)
    other = fresh()
    other.redraw("s", 12)
    assert not same(values(other.parameters("s")), s)


def test_what_a_bank_refuses() -> None:
    b = bench("lora")
    for call in (b.bank.deployable, b.bank.merged):
        with pytest.raises(InputError, match="take theta"):
            call("s")
    with pytest.raises(InputError, match="two tasks of one name"):
        Bank.all_members(("p", "s"), ("notes.a", "notes_a"))


def test_mean_of_members() -> None:
    b = bench("lora")
    states = [b.inner.state(member("s", t)) for t in TASKS]
    found = mean(states)
    for key, value in found.items():
        want = sum(state[key].double() for state in states) / len(TASKS)
        torch.testing.assert_close(value.double(), want, rtol=1e-6, atol=1e-7)
        assert value.dtype == states[0][key].dtype
