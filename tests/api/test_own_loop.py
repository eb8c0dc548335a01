"""What people hand to ZerothOrder in a loop of their own: each mistake is said, with its fix, before anything moves."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from zofo import InputError, ZerothOrder, replay

X = torch.linspace(-1, 1, 20 * 6).view(20, 6).sin()
Y = torch.arange(20) % 3


def network(*more: nn.Module) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), *more, nn.Linear(8, 3))
    with torch.no_grad():
        for number, p in enumerate(model.parameters()):
            p.copy_(torch.linspace(-0.5, 0.5, p.numel()).view(p.shape).add(number).sin())
    return model


def loss_of(model: Any) -> Callable[[], torch.Tensor]:
    return lambda: F.cross_entropy(model(X), Y)


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def moved(model: nn.Module, before: list[torch.Tensor]) -> bool:
    return not all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("given", [lambda m: m.parameters(), lambda m: list(m.parameters()), lambda m: m.state_dict()])
def test_parameters_in_place_of_the_module(given: Callable[[nn.Module], Any]) -> None:
    with pytest.raises(
        InputError, match=r"expected the torch module itself, as in ZerothOrder\(model, lr=\.\.\.\), got"
    ):
        ZerothOrder(given(network()), lr=1e-3)
    with pytest.raises(InputError, match="got a NoneType"):
        ZerothOrder(None)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("lr", [-1, math.nan, math.inf, "1e-3", None, True, torch.ones(2), 1j])
def test_a_rate_that_is_none(lr: Any) -> None:
    with pytest.raises(InputError, match="lr: expected a number that is 0 or more, got"):
        ZerothOrder(network(), lr=lr)
    model = network()
    opt, before = ZerothOrder(model, lr=0.1), weights(model)
    opt.param_groups[0]["lr"] = lr  # as a schedule of one's own may set it
    with pytest.raises(InputError, match="lr: expected"):
        opt.step(loss_of(model))
    assert not moved(model, before)


def test_rates_that_are_right() -> None:
    rates: list[Any] = [0, 0.0, 1e-3, torch.tensor(1e-3)]
    for lr in rates:
        model = network()
        before = weights(model)
        ZerothOrder(model, lr=lr).step(loss_of(model))
        assert moved(model, before) == bool(lr)


@pytest.mark.parametrize(
    ("closure", "words"),
    [
        (lambda m: F.cross_entropy(m(X), Y), r"expected a function \(\) -> loss, .* got a Tensor"),
        (lambda m: None, r"expected a function .* got a NoneType"),
        (lambda m: lambda: None, "returned a NoneType; expected the loss, one number; does it end without `return`"),
        (lambda m: lambda: F.cross_entropy(m(X), Y, reduction="none"), r"a tensor of shape \(20,\).*its \.mean\(\)"),
        (lambda m: lambda: m(X), r"a tensor of shape \(20, 3\)"),
        (lambda m: lambda: torch.zeros(0), r"a tensor of shape \(0,\)"),
        (lambda m: lambda: torch.complex(torch.ones(()), torch.ones(())), "complex64; a loss is one real number"),
        (lambda m: lambda: "0.5", "returned a str"),
        (lambda m: lambda: {"loss": 1.0}, "returned a dict"),
        (lambda m: lambda: (m(X).sum(), 1), "returned a tuple"),
        (lambda m: lambda: True, "returned a bool"),
        (lambda m: lambda: F.cross_entropy(m(X), Y).backward(), r"calls backward\(\), and there are no gradients here"),
    ],
)
def test_a_closure_that_gives_no_loss(closure: Any, words: str, tmp_path: Path) -> None:
    model = network()
    opt, before = ZerothOrder(model, lr=0.1, journal=tmp_path / "j.bin"), weights(model)
    with pytest.raises(InputError, match=words):
        opt.step(closure(model))
    assert not moved(model, before)
    assert opt.steps == 0
    opt.step(loss_of(model))  # and what is right goes on
    assert moved(model, before)
    again = network()
    assert replay(again, tmp_path / "j.bin") == 1
    assert not moved(again, weights(model))


def test_losses_that_are_numbers_of_other_libraries() -> None:
    import numpy as np

    casts: list[Any] = [float, np.float32, np.asarray, torch.Tensor.double, lambda t: t.view(1, 1)]
    for cast in casts:
        model = network()
        before = weights(model)
        assert math.isfinite(ZerothOrder(model, lr=0.1).step(lambda cast=cast, model=model: cast(loss_of(model)())))
        assert moved(model, before)


def test_a_closures_own_errors_stay_its_own() -> None:
    def broken() -> float:
        raise RuntimeError("the file is gone")

    with pytest.raises(RuntimeError, match="the file is gone"):
        ZerothOrder(network()).step(broken)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (nn.Dropout(0.5), r"2 \(Dropout\) is in training mode: it drops others"),
        (nn.AlphaDropout(0.5), "AlphaDropout"),
        (
            nn.BatchNorm1d(8),
            r"2 \(BatchNorm1d\) is in training mode: every forward, .* would move its running statistics",
        ),
        (
            nn.Sequential(nn.Unflatten(1, (1, 8)), nn.InstanceNorm1d(1, track_running_stats=True), nn.Flatten()),
            r"2\.1 \(InstanceNorm1d\)",
        ),
    ],
)
def test_parts_in_training_mode(part: nn.Module, words: str) -> None:
    model = network(part)
    opt, before = ZerothOrder(model, lr=0.1), weights(model)
    with pytest.raises(InputError, match=rf"{words}.*call model\.eval\(\)"):
        opt.step(loss_of(model))
    assert not moved(model, before)
    model.eval()
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    for _ in range(8):
        assert math.isfinite(opt.step(loss_of(model)))
    assert all(torch.equal(b, buffers[name]) for name, b in model.named_buffers())
    model.train()
    with pytest.raises(InputError, match="training mode"):  # whenever it comes back
        opt.step(loss_of(model))


def test_parts_in_training_mode_that_do_no_harm() -> None:
    parts = (nn.Dropout(0.0), nn.LayerNorm(8), nn.BatchNorm1d(8, track_running_stats=False), nn.Identity())
    for part in parts:
        model = network(part).train()
        assert math.isfinite(ZerothOrder(model).step(loss_of(model)))
    lstm = nn.LSTM(6, 3, num_layers=2, dropout=0.5)
    with pytest.raises(InputError, match=r"LSTM.* with dropout"):
        ZerothOrder(lstm).step(lambda: lstm(X)[0].sum())


def test_a_journal_that_is_there_is_not_replaced_without_a_word(tmp_path: Path) -> None:
    path, model = tmp_path / "j.bin", network()
    first = ZerothOrder(model, lr=0.1, journal=path)
    first.step(loss_of(model))
    kept, state = path.read_bytes(), first.state_dict()
    before = weights(model)
    second = ZerothOrder(model, lr=0.1, journal=path)
    with pytest.raises(InputError, match=r"is there already; load_state_dict goes on with it, overwrite=True"):
        second.step(loss_of(model))
    assert path.read_bytes() == kept
    assert not moved(model, before)
    second.load_state_dict(state)
    second.step(loss_of(model))
    assert path.read_bytes()[: len(kept)] == kept
    third = ZerothOrder(model, lr=0.1, journal=path, overwrite=True)
    third.step(loss_of(model))
    third.step(loss_of(model))  # its own, by now
    (tmp_path / "empty.bin").touch()
    ZerothOrder(model, journal=tmp_path / "empty.bin").step(loss_of(model))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is there already"):
        ZerothOrder(model, journal=tmp_path / "notes.txt").step(loss_of(model))


def test_names_that_can_be_gone_through_once() -> None:
    model = network()
    before = weights(model)
    opt = ZerothOrder(model, lr=1.0, names=(name for name in ("0.weight",)))
    assert list(opt.theta) == ["0.weight"]
    opt.step(loss_of(model))
    assert moved(model, before)


def test_names_seeds_groups_and_states() -> None:
    model = network()
    with pytest.raises(InputError, match=r"names: expected a list of names, got one text; give \['0\.weight'\]"):
        ZerothOrder(model, names="0.weight")
    with pytest.raises(InputError, match=r'no parameter 0\.weigth; did you mean "0\.weight"'):
        ZerothOrder(model, names=["0.weigth"])
    for seed in (-1, 1.5, "0", None, True):
        with pytest.raises(InputError, match="seed: expected a whole number"):
            ZerothOrder(model, seed=seed)  # pyright: ignore[reportArgumentType]
    opt = ZerothOrder(model)
    with pytest.raises(InputError, match="has one group of parameters"):
        opt.add_param_group({"params": [nn.Parameter(torch.ones(3))]})
    with pytest.raises(InputError, match="no state of a ZerothOrder: it has no steps, seed"):
        opt.load_state_dict(torch.optim.SGD(network().parameters()).state_dict())


@pytest.mark.parametrize("shift", [None, "copy", "inplace"])
@pytest.mark.parametrize("how", ["wrapped", "in place"])
def test_compiled_models_take_the_steps_of_plain_ones(how: str, shift: str | None) -> None:
    """Dynamo's own backend: what stands in its way is the tracing, whatever compiles the code."""
    torch._dynamo.reset()
    settings = {"name": "spsa"} | ({} if shift is None else {"shift": shift})
    inside, plain = network(), network()
    model: Any = inside
    if how == "wrapped":
        model = torch.compile(inside, backend="eager")
    else:
        inside.compile(backend="eager")
    one, other = (ZerothOrder(m, lr=0.1, estimator=settings) for m in (model, plain))
    assert [one.step(loss_of(model)) for _ in range(3)] == [other.step(loss_of(plain)) for _ in range(3)]
    assert not moved(inside, weights(plain))
    assert list(one.theta) == list(other.theta)  # so that a journal fits the plain model


def test_what_cannot_be_compiled_is_said() -> None:
    torch._dynamo.reset()
    model = network()
    with pytest.raises(InputError, match=r"estimator\.shift: layer .* leave it out"):
        ZerothOrder(torch.compile(model, backend="eager"), estimator={"name": "spsa", "shift": "layer"})  # pyright: ignore
    opt, before = ZerothOrder(model), weights(model)
    with pytest.raises(InputError, match='"shift": "copy"'):
        opt.step(torch.compile(loss_of(model), backend="eager"))
    assert not moved(model, before)
