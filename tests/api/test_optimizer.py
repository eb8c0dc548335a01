"""ZerothOrder in a loop of one's own: steps, schedules, state, journal, masks, and the example of the README."""

from __future__ import annotations

import copy
import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.conftest import ROOT
from zofo import InputError, ZerothOrder
from zofo.api.optimizer import replay
from zofo.errors import NonFiniteError
from zofo.zo.direction import Direction
from zofo.zo.grad import float32
from zofo.zo.kernels import reference
from zofo.zo.keys import derive, tensor_key


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def data(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(20, 6, generator=g), torch.randint(3, (20,), generator=g)


def loss_of(model: nn.Module, seed: int = 0) -> Any:
    x, y = data(seed)
    return lambda: F.cross_entropy(model(x), y)


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(one), weights(other)))


def test_a_step_is_that_of_mezo_by_hand() -> None:
    model, by_hand = network(), network()
    seen = ZerothOrder(model, lr=0.1, seed=5).step(loss_of(model))
    signs = {}
    for name, p in by_hand.named_parameters():
        z = torch.zeros(p.numel())
        reference.add(z, z, [(derive(5, "z", 0), 1.0)], tensor_key(name))
        signs[name] = z.view(p.shape)

    def at(scale: float) -> float:
        moved = copy.deepcopy(by_hand)
        with torch.no_grad():
            for name, p in moved.named_parameters():
                p.add_(float32(scale) * signs[name])
            return float(loss_of(moved)())

    plus, minus = at(1e-3), at(-1e-3)
    c = float32((plus - minus) / 2e-3)
    for (name, p), moved in zip(by_hand.named_parameters(), weights(model)):
        assert torch.equal(moved, p.detach() + float32(-0.1 * c) * signs[name])
    assert seen == (plus + minus) / 2


@pytest.mark.parametrize(
    "rule",
    [
        *("sgd", "momentum", "adam", "adamw", "sign", "conservative", "meazo", "r-adazo", "adamezo", "seed-momentum"),
    ],
)
@pytest.mark.parametrize("estimator", ["spsa", "one-sided", "fzoo", "lozo", "subzero", "svrg"])
def test_saved_and_resumed_and_replayed_is_the_same(rule: str, estimator: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"name": estimator, "q": 2}
    if estimator in ("lozo", "subzero"):
        settings |= {"rank": 2, "refresh": 3}
    if estimator == "svrg":
        settings |= {"refresh": 3, "anchor_batches": 2}

    def optimizer(model: nn.Module, journal: Path | None = None) -> ZerothOrder:
        return ZerothOrder(
            model,
            lr=1e-4 if estimator == "fzoo" else 1e-2,  # its steps are 1 / eps times as long
            estimator=settings,
            rule=rule,
            mask={"name": "magnitude", "density": 0.6},
            seed=3,
            journal=journal,
        )

    def steps(opt: ZerothOrder, model: nn.Module, start: int, stop: int) -> None:
        for k in range(start, stop):
            opt.step(loss_of(model, k), lambda: loss_of(model, 100))

    whole, cut = network(), network()
    steps(optimizer(whole, tmp_path / "journal.bin"), whole, 0, 7)
    first = optimizer(cut, tmp_path / "cut.bin")
    steps(first, cut, 0, 4)
    torch.save({"model": cut.state_dict(), "opt": first.state_dict()}, tmp_path / "saved.pt")
    steps(first, cut, 4, 5)  # what a crash loses
    saved = torch.load(tmp_path / "saved.pt")
    fresh = network(9)
    fresh.load_state_dict(saved["model"])
    second = optimizer(fresh, tmp_path / "cut.bin")
    second.load_state_dict(saved["opt"])
    steps(second, fresh, 4, 7)
    assert not equal(whole, network())
    assert equal(whole, fresh)
    assert (tmp_path / "cut.bin").read_bytes() == (tmp_path / "journal.bin").read_bytes()
    again = network()
    assert replay(again, tmp_path / "journal.bin") == 7
    assert equal(whole, again)
    with pytest.raises(InputError, match="is not the one this run started from"):
        replay(network(1), tmp_path / "journal.bin")


def test_schedulers_set_the_rate() -> None:
    model, other = network(), network()
    opt = ZerothOrder(model, lr=0.5)
    schedule = torch.optim.lr_scheduler.StepLR(opt, 1, gamma=0.0)
    opt.step(loss_of(model))
    schedule.step()
    moved = weights(model)
    opt.step(loss_of(model))
    assert all(torch.equal(a, b) for a, b in zip(moved, weights(model)))
    assert not equal(model, other)


def test_only_the_named_parameters_move() -> None:
    model = network()
    before = dict(zip(dict(model.named_parameters()), weights(model)))
    ZerothOrder(model, lr=1.0, names=["2.bias"]).step(loss_of(model))
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"2.bias"}
    assert model[0].weight.requires_grad  # pyright: ignore
    with pytest.raises(InputError, match=r"no parameter 2\.bais"):
        ZerothOrder(model, names=["2.bais"])


def test_sensitivities_choose_the_weights() -> None:
    model = network()
    opt = ZerothOrder(model, lr=0.1, mask={"name": "sensitivity", "density": 0.1, "scope": "all", "batches": 2})
    opt.sensitivities([loss_of(model, k) for k in range(2)])
    before = weights(model)
    opt.step(loss_of(model))
    moved = torch.cat([(a != b).flatten() for a, b in zip(before, weights(model))])
    plain, scores = network(), []
    for k in range(2):
        gradients = torch.autograd.grad(loss_of(plain, k)(), list(plain.parameters()))
        scores.append(torch.cat([g.flatten() for g in gradients]).square())
    assert set(moved.nonzero().flatten().tolist()) == set((scores[0] + scores[1]).topk(9).indices.tolist())
    with pytest.raises(InputError, match="sensitivities"):
        ZerothOrder(network(), mask="sensitivity").step(loss_of(network()))


def test_what_is_wrong_is_said_at_once() -> None:
    with pytest.raises(InputError, match=r'estimator\.epz: unknown field; did you mean "eps"'):
        ZerothOrder(network(), estimator={"name": "spsa", "epz": 1})
    with pytest.raises(InputError, match='did you mean "momentum"'):
        ZerothOrder(network(), rule="momentun")
    with pytest.raises(InputError, match="magnitude is read off theta"):
        ZerothOrder(network(), estimator={"name": "spsa", "shift": "inplace"}, mask="magnitude")
    with pytest.raises(TypeError, match="further"):
        ZerothOrder(model := network(), estimator="svrg").step(loss_of(model))


def test_a_loss_that_is_nan_moves_nothing() -> None:
    model = network()
    opt, before = ZerothOrder(model, lr=0.1, rule="adam"), weights(model)
    with pytest.raises(NonFiniteError):
        opt.step(lambda: math.nan)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model)))


def test_the_direction_is_that_of_the_methods() -> None:
    model = network()
    opt = ZerothOrder(model, seed=11, estimator={"name": "spsa", "law": "gaussian"})
    z = opt.estimator.direction(opt.theta, 0, derive(11, "z", 0))
    assert z == Direction(derive(11, "z", 0), "gaussian")


@pytest.mark.slow
def test_the_example_reaches_nine_tenths() -> None:
    spec = importlib.util.spec_from_file_location("digits", ROOT / "examples" / "digits.py")
    assert spec is not None
    assert spec.loader is not None
    digits = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(digits)
    state = torch.get_rng_state()
    try:
        assert digits.main() >= 0.9
    finally:
        torch.set_rng_state(state)
    assert len((ROOT / "examples" / "digits.py").read_text().splitlines()) <= 30
