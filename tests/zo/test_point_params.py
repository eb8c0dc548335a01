"""theta given tensor by tensor (an adapter's), and theta moved by first-order steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from tests.tiny_models import build, logits
from zofo.config import registry
from zofo.zo.direction import Direction
from zofo.zo.estimators import spsa
from zofo.zo.grad import ZOGrad
from zofo.zo.kernels import reference
from zofo.zo.keys import tensor_key
from zofo.zo.laws import LAWS
from zofo.zo.point import Point
from zofo.zo.rules import sgd

IDS, Z = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]]), Direction(0xFEDCBA9876543210)


def weight(module: nn.Linear) -> nn.Parameter:
    return module.get_parameter("weight")


@torch.no_grad()
def adapted(model: Any) -> torch.Tensor:
    return model(input_ids=IDS, attention_mask=torch.ones_like(IDS), use_cache=False).logits


@pytest.mark.parametrize("name", registry.names("adapters"))
def test_an_adapters_tensors(name: str, tiny_model_dir: Path, tiny_tokenizer: Any) -> None:
    """Only the named adapter moves; the shifted forward is that of replaced tensors; every one is read and restored."""
    module = registry.load("adapters", name)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval().requires_grad_(False)
    adapters = module.Adapter(module.Config()).build(model, ("p", "s"), 99, tiny_tokenizer)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for params in (adapters.parameters("p"), adapters.parameters("s")):
            for param in params.values():
                param.add_(0.1 * torch.randn(param.shape, generator=generator))
    theta = Point(adapters.model, params=adapters.parameters("p"))
    assert list(theta) == list(adapters.parameters("p"))
    assert theta.size == adapters.size("p")
    assert not any(p.requires_grad for p in theta.values())
    assert all(p.requires_grad for p in adapters.parameters("s").values())
    with adapters.active("p"):
        assert theta.audit(lambda: adapted(adapters.model)) == set()
        before, plain = theta.sha256(), adapted(adapters.model)
        with theta.shifted(Z, 0.05):
            shifted = adapted(adapters.model)
        assert theta.sha256() == before
        assert not torch.equal(shifted, plain)
        others = {key: p.clone() for key, p in adapters.parameters("s").items()}
        theta.add_(ZOGrad(((1.0, Z),), 0.0, 0), 0.05, None)
        torch.testing.assert_close(shifted, adapted(adapters.model), rtol=1e-5, atol=1e-6)
    assert all(torch.equal(p, others[key]) for key, p in adapters.parameters("s").items())


@pytest.mark.parametrize("law", LAWS)
def test_a_part_of_the_model_under_its_own_names(law: str) -> None:
    """The names given address the bits; the sphere's radius is that of the part."""
    first, second = nn.Linear(3, 4), nn.Linear(4, 2)
    theta = Point(nn.Sequential(first, second), params={"mine": weight(second)})
    z, expected = Direction(7, law), torch.empty(8)
    with torch.no_grad():
        second.weight.zero_()
    theta.add_(ZOGrad(((1.0, z),), 0.0, 0), 1.0, None)
    reference.add(expected, torch.zeros(8), theta.terms(z, 1.0), tensor_key("mine"), law=z.entries)
    assert torch.equal(theta["mine"].flatten(), expected)
    if law == "sphere":
        assert float(expected.double().square().sum()) == pytest.approx(8, rel=1e-6)
    assert first.weight.requires_grad


def test_refusals() -> None:
    model, other = nn.Linear(3, 4), nn.Linear(3, 4)
    with pytest.raises(ValueError, match="names or params"):
        Point(model, {"weight"}, params={"weight": weight(model)})
    with pytest.raises(ValueError, match="not among the model's parameters: mine"):
        Point(model, params={"weight": weight(model), "mine": weight(other)})
    with pytest.raises(ValueError, match="two names"):
        Point(model, params={"one": weight(model), "two": weight(model)})


@pytest.mark.parametrize("mode", ["layer", "inplace"])
def test_trainable(mode: str) -> None:
    """Gradients inside the context alone, also when it ends by an error; estimates go on as before."""
    model = build("llama")
    theta = Point(model, mode=mode)
    with theta.trainable():
        assert all(p.requires_grad for p in theta.values())
        model(input_ids=IDS).logits.float().square().mean().backward()
        assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in theta.values())
        with torch.no_grad():
            for p in theta.values():
                assert p.grad is not None
                p -= 1e-3 * p.grad
    assert all(p.grad is None and not p.requires_grad for p in theta.values())

    def fail() -> None:
        model(input_ids=IDS).logits.sum().backward()
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), theta.trainable():
        fail()
    assert all(p.grad is None and not p.requires_grad for p in theta.values())
    before = theta.sha256()
    config = spsa.Config(eps=1e-2, shift=mode)  # pyright: ignore[reportArgumentType]
    g = spsa.Estimator(config)(lambda: float(logits(model).square().mean()), theta, 0, 5)
    assert (theta.sha256() == before) == (mode == "layer")
    sgd.Rule(sgd.Config(), 0).update_(theta, g, 1e-3, 0)
    assert not logits(model).requires_grad
