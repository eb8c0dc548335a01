"""The example of docs/add_an_estimator.md is a working estimator, and its test holds."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from zofo.zo.kernels import reference
from zofo.zo.keys import tensor_key
from zofo.zo.point import Point

DOC = Path(__file__).parents[2] / "docs" / "add_an_estimator.md"


@pytest.fixture
def four_point(monkeypatch: pytest.MonkeyPatch) -> Any:
    source = re.findall(r"```python\n(.*?)```", DOC.read_text(), re.S)[0]
    module = types.ModuleType("four_point")
    monkeypatch.setitem(sys.modules, "four_point", module)  # dataclasses look their module up
    exec(compile(source, str(DOC), "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("mode", ["layer", "copy", "inplace"])
def test_four_points_are_exact_on_a_cubic(mode: str, four_point: Any) -> None:
    model = nn.Linear(4, 1, bias=False).double()
    theta = Point(model, mode=mode)
    before = model.weight.detach().clone()

    def f() -> float:
        return float(model.weight.pow(3).sum())

    estimator = four_point.Estimator(four_point.Config(eps=0.1, shift=mode, q=2))
    g = estimator(f, theta, 0, 7)
    assert g.forwards == 8
    for c, z in g.terms:
        signs = reference.entries("rademacher", z.seed, tensor_key("weight"), 0, 4).view(1, 4)
        assert c == pytest.approx(float((3 * before**2 * signs).sum()) / 2, rel=1e-5)
    assert torch.allclose(theta["weight"], before)
