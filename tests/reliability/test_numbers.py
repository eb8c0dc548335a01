"""A part of `python -m reliability.numbers`: one value at each place of a step, and fewer estimates."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from reliability._steps import METHODS, Small, Snapshot, coefficient

from reliability import _drift, numbers
from zofo.config import registry
from zofo.methods._first_order import Descent
from zofo.zo.journalled import Journalled

SWEPT = {
    "mezo, svrg": ("bfloat16", "layer"),
    "mezo, conservative": ("float16", "copy"),
    "bilevel-zofo": ("float32", "layer"),
    "fo-peft": ("float16", ""),
    "bilevel-fo": ("float32", ""),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return Small(tmp_path_factory.mktemp("numbers"))


def bench(small: Small, name: str, dtype: str, shift: str) -> numbers.Bench:
    options = [f"model.dtype={dtype}", *([f"estimator.shift={shift}"] if shift else [])]
    return numbers.Bench(small.session(name, *options), 2)


@pytest.mark.parametrize("name", list(SWEPT))
def test_each_place_of_a_step(name: str, small: Small) -> None:
    here = bench(small, name, *SWEPT[name])
    places = here.places()
    assert len(places) >= 2
    for number, place in enumerate(places):
        bad, policy = numbers.BAD[number % 3], ("stop", "skip", "halve")[number % 3]
        assert numbers.spoil_one(here, place, bad, policy) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", list(METHODS))
def test_every_method(name: str, small: Small, tmp_path: Path) -> None:
    tally = numbers.Tally()
    numbers.injections(small, tally, math.inf, [name], ["float32", "float16"], tmp_path)
    assert tally.faults == []
    assert tally.cases["stop"] >= 6


@pytest.mark.parametrize("name", ["mezo", "mezo, adamw", "bilevel-zofo"])
def test_coefficients_that_overflow(name: str, small: Small) -> None:
    for _, faults in numbers.too_large(bench(small, name, "float32", "layer")):
        assert faults == []


def test_a_square_that_overflows_would_stop_the_weights(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why adam refuses it: v would be infinite for ever, and every later move 0."""
    session = small.session("mezo, adamw", "rule.weight_decay=0.0")
    assert session.rule is not None
    monkeypatch.setattr(type(session.rule), "largest", math.inf)
    with coefficient(session, 1e20):
        session.method.step(0)
    before = Snapshot.of(session)
    session.method.step(1)
    theta = {name for name in before.differs(session) if name.startswith("theta")}
    assert theta == set()


def test_it_sees_what_is_wrong(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that moves theta before the coefficient is looked at; an optimizer that does not look at its gradient."""
    here, real = bench(small, "bilevel-zofo", "float32", "layer"), Journalled.update_

    def early(self: Any, theta: Any, *more: Any) -> Any:
        next(iter(theta.values())).view(-1)[0] += 1.0
        return real(self, theta, *more)

    losses = [place for place in here.places() if place.kind == "loss"]
    gradients = [place for place in here.places() if place.kind == "gradient"]
    with monkeypatch.context() as patch:
        patch.setattr(Journalled, "update_", early)
        faults = numbers.spoil_one(here, losses[0], math.nan, "stop")
        assert any("not as before the refused update" in fault for fault in faults)
    with monkeypatch.context() as patch:
        patch.setattr(Descent, "check", lambda self: 1.0)
        assert numbers.spoil_one(here, gradients[0], math.nan, "skip") != []


@pytest.mark.parametrize("dtype", _drift.DTYPES)
def test_a_journal_with_halved_rates_replays(dtype: str, small: Small, tmp_path: Path) -> None:
    for shift in ("layer", "inplace"):
        options = [f"model.dtype={dtype}", f"estimator.shift={shift}"]
        assert numbers.replayed(small, "mezo, q = 3", options, tmp_path) == []


@pytest.mark.parametrize("name", registry.names("estimators"))
def test_estimates_leave_every_bit(name: str) -> None:
    for dtype in _drift.DTYPES:
        for mode in _drift.MODES:
            assert _drift.still(name, dtype, mode, 12, math.inf) == ([], 12)


def test_mode_inplace_drifts() -> None:
    """As documented: which is also to say that the measure sees a theta that moved."""
    for dtype, least in (("float32", 1e-7), ("bfloat16", 1e-3), ("float16", 1e-4)):
        sizes, _ = _drift.still("spsa", dtype, "inplace", 100, math.inf)
        assert sizes["100"]["rms"] > least


@pytest.mark.slow
def test_weights_that_an_update_overflows(small: Small, tmp_path: Path) -> None:
    tally = numbers.Tally()
    numbers.overflowing(small, tally, math.inf, tmp_path)
    assert tally.faults == []
    assert tally.cases["overflowing runs"] == 30


@pytest.mark.parametrize("mode", ["layer", "copy"])
def test_int8_weights_stay(mode: str, small: Small) -> None:
    """Of a quantised backbone: what is quantised is never written, what is not keeps its bits at rate 0."""
    pytest.importorskip("torchao")
    session = small.session("mezo", "model.quantization=int8", f"estimator.shift={mode}", "method.lr=0.0")
    before, codes = Snapshot.of(session), session.base_sha256
    for k in range(6):
        session.method.step(k)
    assert before.differs(session) == []
    assert session.loaded.base_sha256(session.backbone) == codes
    assert all(torch.isfinite(value.float()).all() for value in session.problem.theta.values())
