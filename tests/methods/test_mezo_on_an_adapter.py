"""mezo on an adapter: it moves that adapter alone, with an eps of its own, and runs with every adapter."""

from __future__ import annotations

import pytest
import torch

from tests.float64_llama import widen
from tests.tiny_bilevel import EPS, SEED, moved, ready, same, values, world
from zofo import evaluate, finetune
from zofo.config import registry
from zofo.methods import mezo
from zofo.zo.estimators import spsa
from zofo.zo.grad import float32
from zofo.zo.journal import read_header, read_records
from zofo.zo.kernels import reference
from zofo.zo.keys import derive, tensor_key
from zofo.zo.point import Point


def test_mezo_on_an_adapter_moves_that_adapter_alone() -> None:
    w = world()
    backbone, s = w.theta.sha256(), values(w.adapters.parameters("s"))
    tensors = w.adapters.parameters("p")
    problem = w.problem()
    problem.theta = Point(w.adapters.model, params=tensors)
    method = ready(mezo.Method(mezo.Config(lr=1e-2), with_adapter=True), problem)
    assert (method.theta_of, method.adapters_used, method.candidates) == ("adapter", ("p",), ("p",))
    theta = widen(w.theta)
    for k in range(2):
        before, seed = widen(tensors), derive(SEED, "z", k)
        z = {n: reference.signs(seed, tensor_key(n), 0, t.numel()).view(t.shape) for n, t in tensors.items()}
        plus, minus = (float(w.wide.loss(theta, moved(before, z, e), w.f[k])) for e in (EPS, -EPS))
        c = method.step(k)["c"]
        assert c == pytest.approx((plus - minus) / (2 * EPS), rel=3e-5, abs=1e-4)
        for name, value in tensors.items():
            assert torch.equal(value, before[name].float() + torch.tensor(float32(-1e-2 * c)) * z[name])
    assert w.theta.sha256() == backbone
    assert same(values(w.adapters.parameters("s")), s)


def test_eps_of_mezo_depends_on_what_it_moves() -> None:
    """SPEC 3.15: whole model 1e-3, prefix 1e-1, LoRA 1e-2; a given value stands."""
    from zofo.api.configure import resolve

    def eps(*overrides: str, adapter: str | None = None) -> float:
        base = {"model": "m", "task": "sst2", "method": "mezo", "train": {"output_dir": "x"}}
        return resolve(None, overrides, None, **base, adapter=adapter).estimator.eps

    assert [eps(), eps(adapter="prefix"), eps(adapter="lora"), eps(adapter="prompt")] == [1e-3, 1e-1, 1e-2, 1e-3]
    assert eps("estimator.eps=0.5", adapter="lora") == 0.5
    assert spsa.Config().eps == 1e-3


@pytest.mark.parametrize("adapter", registry.names("adapters"))
def test_mezo_on_every_adapter_trains_and_is_found_again(adapter, tiny_model_dir, sentiment_file, tmp_path) -> None:
    """The whole way: a run, its journal, its adapter's file, and the same numbers from the run's directory."""
    out = tmp_path / "out"
    run = finetune(
        str(tiny_model_dir),
        str(sentiment_file),
        "mezo",
        adapter,
        output_dir=out,
        max_steps=6,
        batch_size=4,
        eval_steps=3,
        overrides=["method.lr=1e-2"],
    )
    assert run.deployed == "p"
    assert run.info["parameters"]["theta"] == run.info["parameters"]["adapter"] > 0
    header, start = read_header(out / "journal.bin")
    assert header["theta"] == "adapter"
    assert len(list(read_records(out / "journal.bin", start))) == 6
    before = (out / "best-3" if run.info["best_step"] == 3 else out / "best-6") / "p" / "adapter_model.safetensors"
    assert before.is_file()
    assert evaluate(out) == pytest.approx(run.test, rel=1e-6)
    plain = evaluate(out, adapter="theta")
    assert plain["loss"] != run.test["loss"]


def test_an_adapter_of_a_preset_does_not_change_what_mezo_moves() -> None:
    """The preset's adapter was meant for its own method; one that is asked for beside mezo is used."""
    from zofo.api.configure import resolve

    base = {"model": "m", "task": "sst2", "train": {"output_dir": "x"}}
    whole = resolve(preset="quickstart", method="mezo", **base)
    assert whole.adapter is None
    assert whole.estimator.eps == 1e-3
    assert any("only if it is asked for" in note for note in whole.notes)
    asked = resolve(preset="quickstart", method="mezo", adapter="lora", **base)
    assert asked.names["adapter"] == "lora"
    assert asked.method.lr == 1e-4
