"""The rates of the contenders: the middle of each grid moves theta about as far as the middle of MeZO's."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from zofo import ZerothOrder
from zofo.config import registry
from zofo.study.bench.plan import Contender, contender

SLOPE = 12.0  # rms of c along MeZO's way on SmolLM2-135M: 7 to 40 in results/sst2_smollm2 and results/zo_family_smoke
FORWARDS = 240  # as the common plan has it


def comparable(one: Contender) -> bool:
    """Whether all of theta moves along independent entries, at a rate that is searched."""
    same = {"mezo", "spsa", "fzoo", "one-sided"} >= {one.settings["method.name"], one.settings.get("estimator.name")}
    return same and "method.lr" in one.search and not any(key.startswith("mask") for key in one.settings)


def way(one: Contender) -> float:
    """rms of theta's way through noise alone, at the grid's middle."""
    model, generator = nn.Linear(64, 32, bias=False), torch.Generator().manual_seed(0)
    nn.init.normal_(model.weight, std=0.1, generator=generator)
    before = model.weight.detach().clone()
    parts: dict[str, Any] = {"estimator": {}, "rule": {}}
    for key, value in one.settings.items():
        section, field = key.split(".")
        if section in parts:
            parts[section][field] = value
    rates = sorted(one.search["method.lr"])
    opt = ZerothOrder(model, lr=rates[len(rates) // 2], estimator=parts["estimator"], rule=parts["rule"])
    for _ in range(int(FORWARDS / one.forwards)):
        slope = torch.randn(before.shape, generator=generator).double() * (SLOPE / math.sqrt(before.numel()))
        opt.step(lambda slope=slope: (slope * model.weight.double()).sum())
    return float((model.weight - before).square().mean().sqrt())


ALL = {name: contender(name) for name in registry.names("contenders")}


@pytest.mark.parametrize("name", [name for name, one in ALL.items() if comparable(one) and name != "mezo"])
def test_the_middle_of_a_grid_is_as_long_a_way_as_mezos(name: str) -> None:
    assert 1 / 3 < way(ALL[name]) / way(ALL["mezo"]) < 3


def test_these_are_compared() -> None:
    wanted = {"zo-momentum", "zo-adam", "r-adazo", "meazo", "adamezo", "fzoo"}
    assert wanted <= {name for name, one in ALL.items() if comparable(one)}
