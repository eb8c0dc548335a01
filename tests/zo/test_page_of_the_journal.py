"""docs/journal.md is enough: a reader written from the page alone gives theta bit for bit, for every rule and mode."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from tests.journal_reader import DENSE, SKIPPED, Reader, read
from tests.thinned import latin
from zofo import InputError, ZerothOrder, finetune
from zofo.api.restore import restore
from zofo.config import registry
from zofo.errors import NonFiniteError

RULES: dict[str, dict[str, Any]] = {
    "sgd": {"name": "sgd"},
    "sgd normalised": {"name": "sgd", "normalize": True, "clip": 0.9, "memory": 0.5},
    "sgd by sign": {"name": "sgd", "scalar_sign": True},
    "conservative": {"name": "conservative"},
    "sign": {"name": "sign"},
    "momentum": {"name": "momentum"},
    "momentum bfloat16": {"name": "momentum", "state": "bfloat16"},
    "momentum 8bit": {"name": "momentum", "state": "8bit"},
    "adam": {"name": "adam"},
    "adam bfloat16": {"name": "adam", "state": "bfloat16"},
    "adam 8bit": {"name": "adam", "state": "8bit"},
    "adamw": {"name": "adamw", "weight_decay": 3.0},
    "meazo": {"name": "meazo", "beta": 0.5},
    "r-adazo": {"name": "r-adazo"},
    "r-adazo 8bit": {"name": "r-adazo", "state": "8bit"},
    "adamezo": {"name": "adamezo", "h": 2},
    "seed-momentum": {"name": "seed-momentum", "h": 3},
}
ROUNDINGS = [
    (torch.float32, "stochastic"),
    (torch.bfloat16, "stochastic"),
    (torch.bfloat16, "nearest"),
    (torch.bfloat16, "split"),
    (torch.float16, "stochastic"),
]
MASKS = [
    None,
    {"name": "random", "density": 0.5, "rescale": True, "refresh": 2},
    {"name": "blocks", "per_step": 2, "rescale": True},
    {"name": "blocks", "per_step": 1, "order": "random", "refresh": 2},
]
LAWS = ("rademacher", "gaussian", "sphere")
ESTIMATORS = [("spsa", 1), ("spsa", 2), ("one-sided", 2), ("fzoo", 3)]


class Net(nn.Module):
    """464 weights: two layers with a number in their names, and a tensor outside of them."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.layers = nn.ModuleList([nn.Linear(16, 20), nn.Linear(20, 4)])
        self.gain = nn.Parameter(torch.ones(40))
        for parameter in self.parameters():
            parameter.data = (torch.randn(parameter.shape, generator=generator) / 4).to(dtype)

    def loss(self) -> Tensor:
        x = torch.linspace(-1, 1, 32).view(2, 16).to(self.gain.dtype)
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x.float().square().mean() + F.mse_loss((self.gain * 1).float(), torch.full((40,), 0.7))


Run = tuple[bytes, dict[str, np.ndarray], dict[str, np.ndarray]]


def numbers(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: p.detach().float().numpy().copy().reshape(-1) for name, p in model.named_parameters()}


def run(path: Path, dtype: torch.dtype, **parts: Any) -> Run:
    """Five steps, the third of which is not finite: (the journal's bytes, theta before, theta after)."""
    model = Net(dtype)
    before, opt = numbers(model), ZerothOrder(model, seed=7, journal=path, **{"lr": 3e-2, **parts})
    for step in range(5):
        with pytest.raises(NonFiniteError) if step == 2 else contextlib.nullcontext():
            opt.step(lambda: float("nan") if step == 2 else model.loss())  # noqa: B023
    opt.theta.settle()
    return path.read_bytes(), before, numbers(model)


def differ(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> list[str]:
    return [name for name, values in one.items() if not np.array_equal(values.view(np.int32), two[name].view(np.int32))]


def others(number: int) -> dict[str, Any]:
    """Estimator and mask of the combination `number`: all go round, so that each rule meets each."""
    (name, q), law = ESTIMATORS[number % 4], LAWS[number // 3 % 3]
    own = {} if name == "fzoo" else {"law": law}
    rate = {"lr": 1e-3} if name == "fzoo" else {}  # its steps are 1 / eps times as long
    return {"estimator": {"name": name, "q": q, "eps": 1e-2, **own}, **rate, "mask": MASKS[(number + number // 4) % 4]}


def combinations() -> list[Any]:
    rows = []
    for number, row in enumerate(latin(list(RULES), ROUNDINGS, ("inplace", "layer", "copy"))):
        rule, (dtype, rounding), shift = row.values
        if (rule, shift) != ("conservative", "inplace"):  # refused: see below
            named = f"{rule}-{str(dtype)[6:]}-{rounding}-{shift}"
            rows.append(pytest.param(rule, dtype, rounding, shift, number, marks=row.marks, id=named))
    return rows


@pytest.mark.parametrize(("rule", "dtype", "rounding", "shift", "number"), combinations())
def test_the_page_is_enough(
    rule: str, dtype: torch.dtype, rounding: str, shift: str, number: int, tmp_path: Path
) -> None:
    for turn in range(2):
        parts = others(number + 5 * turn)
        parts["estimator"]["shift"] = shift
        raw, before, after = run(tmp_path / f"j{turn}", dtype, rule=RULES[rule] | {"rounding": rounding}, **parts)
        header, records = read(raw)
        assert [record.outcome == SKIPPED for record in records] == [step == 2 for step in range(5)]
        assert differ(before, after), parts  # something moved
        assert differ(Reader(header, before).replay(records), after) == [], parts


# Each rule with one of the methods; the other pairs with `make test-slow`
WITH_A_RUN = [
    pytest.param(rule, method, marks=() if (i + j) % 2 == 0 else pytest.mark.slow)
    for i, rule in enumerate(["momentum", "sign", "adamw", "sgd"])
    for j, method in enumerate(["mezo", "bilevel-zofo"])
]


@pytest.mark.parametrize(("rule", "method"), WITH_A_RUN)
def test_the_page_is_enough_for_a_run(
    rule: str, method: str, tiny_model_dir: Path, sentiment_file: Path, tmp_path: Path
) -> None:
    """From the base model's file and journal.bin to what the run deploys, every tensor bit for bit."""
    options: dict[str, Any] = {"max_steps": 8, "batch_size": 4, "eval_steps": 4, "save_steps": 4}
    settings = {"name": method} if method == "mezo" else {"name": method, "inner_steps": 1}
    rate = {"lr" if method == "mezo" else "lr_theta": 1e-3}
    trained = finetune(
        str(tiny_model_dir), str(sentiment_file), settings | rate, output_dir=tmp_path / "run", seed=5,
        overrides=["estimator.shift=inplace", f"rule={rule}", "model.dtype=float32"], **options,
    )  # fmt: skip
    raw = (trained.path / "journal.bin").read_bytes()[: trained.info["journal_position"]]
    header, records = read(raw)
    base = {name: w.numpy().reshape(-1) for name, w in load_file(tiny_model_dir / "model.safetensors").items()}
    restored = restore(trained.path, "theta").model.state_dict()
    after = {name: restored[name].numpy().reshape(-1) for name in base}
    assert records
    assert differ(base, after)
    assert differ(Reader(header, base).replay(records), after) == []


def test_every_rule_is_there() -> None:
    assert {settings["name"] for settings in RULES.values()} == set(registry.names("rules"))


def test_conservative_refuses_inplace() -> None:
    with pytest.raises(InputError, match="conservative looks at points"):
        ZerothOrder(Net(torch.float32), rule="conservative", estimator={"name": "spsa", "shift": "inplace"})


@pytest.mark.parametrize("rule", [*DENSE, "sgd"])
def test_another_reading_gives_another_theta(rule: str, tmp_path: Path) -> None:
    """What the page says of the pass that restores theta is needed: read the other way, a tensor differs."""
    wrong = tuple({*DENSE} ^ {rule})
    raw, before, after = run(
        tmp_path / "j", torch.bfloat16, rule=rule, estimator={"name": "spsa", "shift": "inplace", "eps": 1e-2}
    )
    header, records = read(raw)
    assert differ(Reader(header, before).replay(records), after) == []
    assert differ(Reader(header, before, passes_apart=wrong).replay(records), after)
