"""Estimates that must leave theta alone, with every estimator, dtype and mode; and what mode inplace drifts by."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from reliability._steps import same
from zofo.config import registry
from zofo.zo.keys import derive
from zofo.zo.point import Point
from zofo.zo.rules import sgd

if TYPE_CHECKING:
    from reliability.numbers import Tally

DTYPES = ("float32", "bfloat16", "float16")
MODES = ("layer", "copy")


class Words(nn.Module):
    """Reads every kind of weight: rows of an embedding, matrices, gains, biases; and one that is -0."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.words, self.norm = nn.Embedding(64, 32), nn.LayerNorm(32)
            self.up, self.down = nn.Linear(32, 48), nn.Linear(48, 32, bias=False)
        for param in self.parameters():
            param.data *= 1.0 if param is self.norm.weight else 0.05 / param.data.std().clamp(min=0.05)
        self.up.bias.data[0] = -0.0
        self.to(dtype)

    def forward(self, ids: torch.Tensor) -> float:
        hidden = self.words(ids)
        hidden = hidden + self.down(self.up(self.norm(hidden)).relu())
        return float((hidden @ self.words.weight.T).float().logsumexp(-1).mean())


def estimates(tally: Tally, until: float, number: int) -> dict[str, Any]:
    """{"estimator, dtype, mode": estimates that left theta's bits}, and what mode inplace drifted by."""
    kept: dict[str, Any] = {}
    drift: dict[str, Any] = {}
    cases = [("spsa", dtype, "inplace") for dtype in DTYPES]
    cases += [(name, dtype, mode) for name in registry.names("estimators") for dtype in DTYPES for mode in MODES]
    for turn, (name, dtype, mode) in enumerate(cases):
        now = time.monotonic()
        share = now + max(0.0, until - now) / (len(cases) - turn)
        figures, done = still(name, dtype, mode, number, until if mode == "inplace" else share)
        if mode == "inplace":
            drift[dtype] = figures
        else:
            kept[here := f"{name}, {dtype}, {mode}"] = done
            tally.count("estimators", *([f"{here}: theta moved: {figures}"] if figures else []))
        print(f"{name}, {dtype}, {mode}: {done} estimates; {figures or 'the same bits'}", flush=True)
    return {"kept": kept, "drift": drift}


def still(name: str, dtype: str, mode: str, number: int, until: float) -> tuple[Any, int]:
    """(what moved, or of a drift its sizes by number of estimates; estimates made).

    From the tenth part on each has an update at rate 0, of which a weight that is -0 becomes 0: the same number.
    """
    model = Words(getattr(torch, dtype))
    theta = Point(model, mode=mode)
    before = {key: value.detach().clone() for key, value in theta.items()}
    module = registry.load("estimators", name)
    estimator, rule = module.Estimator(module.Config(shift=mode)), sgd.Rule(sgd.Config(), 0)
    ids, sizes, k = torch.arange(0, 64, 7), dict[str, Any](), 0

    def f() -> float:
        return model(ids)

    f.further = lambda: f  # type: ignore[attr-defined]  # what svrg estimates its anchor on
    for k in range(number):
        g = estimator(f, theta, k, derive(0, "z", k))
        if k == number // 10 and all(same(value, before[key]) for key, value in theta.items()):
            for held in (theta["up.bias"], before["up.bias"]):
                held[0] = 0.0
        if k >= number // 10 or mode == "inplace":
            rule.update_(theta, g, 0.0, k)
        if mode == "inplace" and k + 1 in (100, 1000, 10_000):
            sizes[str(k + 1)] = distances(theta, before)
        if time.monotonic() > until:
            break
    if mode == "inplace":
        return sizes, k + 1
    return [key for key, value in theta.items() if not same(value, before[key])], k + 1


def distances(theta: Any, before: dict[str, torch.Tensor]) -> dict[str, float]:
    """Largest |change|, its root mean square over that of theta, the share of weights that are others."""
    change = torch.cat([(theta[name].double() - value.double()).view(-1) for name, value in before.items()])
    whole = torch.cat([value.double().view(-1) for value in before.values()])
    rms = float(change.square().mean().sqrt() / whole.square().mean().sqrt())
    return {"largest": float(change.abs().max()), "rms": rms, "moved": float((change != 0).double().mean())}
