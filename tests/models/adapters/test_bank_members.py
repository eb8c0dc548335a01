"""A bank's members: without them the bare model, copied, saved, opened with PEFT, drawn anew, averaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.tensors_by_name import same, values
from tests.tiny_bank import ADAPTERS, KINDS, TASKS, Words, mixed, new_bank, plain_loss, tiny_bank
from tests.tiny_bilevel import PAD, lively
from tests.tiny_models import build
from zofo.data.batch import collate
from zofo.errors import InputError
from zofo.models.adapters._bank import Bank, mean, member
from zofo.models.adapters._open import open_adapter


@pytest.mark.parametrize("kind", KINDS)
def test_without_is_the_bare_model(kind: str) -> None:
    b, encoded = tiny_bank(kind), mixed("lm")
    batch = collate(encoded, PAD)
    want = plain_loss(lively(build("llama")))(batch)
    loss = b.loss()
    with b.bank.active("s"):
        before, state = loss(batch), {n: values(b.bank.state(n)) for n in ("p", "s")}
        with b.bank.without():
            direct = plain_loss(b.bank.model, b.head)(batch)
            assert direct == want
        assert loss(batch) == before != want
        assert b.bank.current == "s"
    assert all(same(state[n], b.bank.state(n)) for n in ("p", "s"))
    assert all(p.requires_grad for n in ("p", "s") for p in b.bank.parameters(n).values())
    unwrapped = plain_loss(b.bank.unwrap(), b.head)
    assert unwrapped(batch) == want


@pytest.mark.parametrize("kind", KINDS)
def test_without_holds_for_a_loss_with_the_bank(kind: str) -> None:
    """How the evaluation of theta alone is made: the run's own Loss, on examples of many tasks."""
    b, encoded = tiny_bank(kind), mixed("lm")
    bare, batch = plain_loss(lively(build("llama"))), collate(encoded, PAD)
    with torch.no_grad():
        want = bare.scorer.logprobs(batch)
        with b.bank.without():
            assert torch.equal(b.head.logprobs(b.bank.model, batch), want)


@pytest.mark.parametrize("kind", KINDS)
def test_copy_put_and_state(kind: str) -> None:
    b = tiny_bank(kind)
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
        state, whole = b.inner.state(member("s", task)), bank.state("s")
        mine = {k.removeprefix(f"{task}/"): v for k, v in whole.items() if k.startswith(f"{task}/")}
        assert same(state, mine)
        assert state
    saved = {k: v.clone() for k, v in bank.state("p").items()}
    bank.load("s", saved)
    assert same(values(bank.parameters("s")), p)
    assert bank.size("p") == sum(t.numel() for t in p.values()) == len(TASKS) * b.inner.size(member("p", "trec"))


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_restore(kind: str, tmp_path: Path) -> None:
    b, other = tiny_bank(kind), tiny_bank(kind)
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
    b = tiny_bank(kind)
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
        return new_bank(build("llama"), ADAPTERS["lora"])[1]

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
    b = tiny_bank("lora")
    for call in (b.bank.deployable, b.bank.merged):
        with pytest.raises(InputError, match="take theta"):
            call("s")
    with pytest.raises(InputError, match="two tasks of one name"):
        Bank.all_members(("p", "s"), ("notes.a", "notes_a"))


def test_mean_of_members() -> None:
    b = tiny_bank("lora")
    states = [b.inner.state(member("s", t)) for t in TASKS]
    average = mean(states)
    for key, value in average.items():
        want = sum(state[key].double() for state in states) / len(TASKS)
        torch.testing.assert_close(value.double(), want, rtol=1e-6, atol=1e-7)
        assert value.dtype == states[0][key].dtype
