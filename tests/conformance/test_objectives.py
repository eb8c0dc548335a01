"""Any objective: a sum and a weight for each example, whatever batches they come in, and its gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.family_runs import save_rows
from tests.tiny_bilevel import World, examples, world
from tests.tiny_models import PAD
from zofo import InputError, finetune
from zofo.config import registry
from zofo.data.batch import Batch, collate
from zofo.data.example import objective_of
from zofo.data.tokenization import Encoded

NAMES = registry.names("objectives")
GRADIENTS = [name for name in NAMES if objective_of(name).differentiable]


def rows_for(name: str, n: int = 5, seed: int = 3) -> list[Encoded]:
    """Examples with the answers that the objective encodes."""
    return examples("lm" if objective_of(name).encodes == "gold" else "options", n, seed)


def random_logp(batch: Batch, seed: int = 0) -> Tensor:
    return -torch.rand(batch.labels.numel(), generator=torch.Generator().manual_seed(seed)) * 3


def of(name: str, encoded: list[Encoded], logp: Tensor | None = None) -> tuple[Tensor, Tensor]:
    batch = collate(encoded, PAD)
    return objective_of(name)()(random_logp(batch) if logp is None else logp, batch)


@pytest.mark.parametrize("name", NAMES)
def test_its_facts(name: str) -> None:
    cls = objective_of(name)
    assert 20 < len(registry.docstring("objectives", name).splitlines()[0]) <= 120
    assert cls.encodes in ("gold", "options", "")
    assert cls.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_the_batchs_alone(name: str) -> None:
    encoded = rows_for(name)
    batch = collate(encoded, PAD)
    first, second = (of(name, encoded, random_logp(batch, seed))[1] for seed in (0, 1))
    assert torch.equal(first, second)
    assert (first > 0).all()
    sums = of(name, encoded)[0]
    assert sums.dtype == first.dtype == torch.float32
    assert sums.shape == first.shape == (len(encoded),)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_its_examples(name: str) -> None:
    """In any order: each example's sum and weight are those that it has alone."""
    encoded = rows_for(name, 6)
    batch = collate(encoded, PAD)
    logp = random_logp(batch)
    labels = logp.split([sum(len(row.labels) for row in e.rows) for e in encoded])
    sums, weights = of(name, encoded, logp)
    for i, (e, label_logp) in enumerate(zip(encoded, labels, strict=True)):
        alone = of(name, [e], label_logp)
        assert float(alone[0]) == pytest.approx(float(sums[i]), rel=1e-5, abs=1e-6)
        assert float(alone[1]) == float(weights[i])
    turned = of(name, encoded[::-1], torch.cat(labels[::-1]))
    torch.testing.assert_close(turned[0].flip(0), sums, rtol=1e-5, atol=1e-6)
    assert torch.equal(turned[1].flip(0), weights)


def loss_in(w: World, name: str, micro: int | None) -> Any:
    loss = w.loss.of(objective_of(name)())
    loss.micro_batch_size = micro
    return loss


@pytest.mark.parametrize("name", NAMES)
def test_micro_batches_have_the_value_of_the_whole(name: str) -> None:
    w, batch = world(), collate(rows_for(name), PAD)
    whole, *parts = (loss_in(w, name, micro)(batch) for micro in (None, 1, 2, 3))
    assert parts == pytest.approx([whole] * 3, rel=1e-5)


@pytest.mark.parametrize("name", GRADIENTS)
def test_micro_batches_have_the_gradient_of_the_whole(name: str) -> None:
    w, batch = world(), collate(rows_for(name), PAD)
    gradients = []
    for micro in (None, 1, 2):
        loss = loss_in(w, name, micro)
        with w.adapters.active("p"):
            loss.backward(batch)
        gradients.append({key: p.grad.clone() for key, p in w.adapters.parameters("p").items() if p.grad is not None})
        for p in w.adapters.parameters("p").values():
            p.grad = None
    biggest = max(float(g.abs().max()) for g in gradients[0].values())
    assert biggest > 0
    for other in gradients[1:]:
        for key, g in gradients[0].items():
            torch.testing.assert_close(other[key], g, rtol=1e-4, atol=1e-5 * biggest)


@pytest.mark.parametrize("name", GRADIENTS)
def test_its_gradient_is_that_of_finite_differences_in_float64(name: str) -> None:
    """Of the mean, by the log-probabilities: where it has a kink the test's numbers do not lie."""
    encoded = rows_for(name)
    batch = collate(encoded, PAD)

    def mean(logp: Tensor) -> Tensor:
        sums, weights = objective_of(name)()(logp, batch)
        return sums.sum() / weights.sum()

    logp = random_logp(batch).double().requires_grad_(True)
    (gradient,) = torch.autograd.grad(mean(logp), logp)
    for i in range(len(logp)):
        step = torch.zeros_like(logp)
        step[i] = 1e-5
        slope = (mean(logp.detach() + step) - mean(logp.detach() - step)) / 2e-5
        assert float(gradient[i]) == pytest.approx(float(slope), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ["mezo", "fo-peft"])
def test_a_run_with_it(name: str, method: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    """Two steps; without a gradient it is refused where one is needed, before anything is written."""
    settings = {"mezo": {"name": "mezo", "lr": 1e-3}, "fo-peft": {"name": "fo-peft", "lr": 1e-2}}[method]

    def run() -> Any:
        return finetune(
            str(tiny_model_dir),
            str(save_rows(tmp_path)),
            settings,
            output_dir=tmp_path / "out",
            max_steps=2,
            batch_size=4,
            overrides=[f"task.objective={name}", "task.dev_examples=4", "task.test_examples=4"],
        )

    if method == "fo-peft" and name not in GRADIENTS:
        with pytest.raises(InputError, match="first-order steps"):
            run()
        assert not (tmp_path / "out").exists()
        return
    done = run()
    assert done.info["steps"]["lower"] + done.info["steps"]["upper"] == 2
    assert done.dev["loss"] == done.dev["loss"]


def test_an_objective_that_is_none_is_named(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'^task.objective: expected one of "auto", .*; did you mean "options"'):
        finetune(
            str(tiny_model_dir),
            str(save_rows(tmp_path)),
            "mezo",
            output_dir=tmp_path / "out",
            overrides=["task.objective=option"],
        )
