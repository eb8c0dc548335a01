"""Gradient checkpointing: the same gradients in less memory, and no gradient work below the first adapter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.tiny_models import IDS, build
from zofo.errors import InputError
from zofo.models import activation_checkpointing
from zofo.models.activation_checkpointing import checkpoint_layers
from zofo.models.adapters.lora import Adapter, Config
from zofo.models.adapters.prompt import Adapter as PromptAdapter
from zofo.models.adapters.prompt import Config as PromptConfig
from zofo.zo.direction import Direction
from zofo.zo.point import Point


class Words:
    """What the prompt adapter needs of a tokenizer."""

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [5, 6, 7]}


def gradients(family: str, adapter: Any, checkpointed: bool) -> tuple[dict[str, Tensor], int]:
    """(the adapter's gradients, bytes that autograd keeps between forward and backward)."""
    model = build(family)
    if checkpointed:
        assert checkpoint_layers(model) == 2
    adapters = adapter.build(model, ("p", "s"), 0, Words())
    generator = torch.Generator().manual_seed(0)
    for param in adapters.parameters("s").values():  # LoRA's B starts at 0, where A has no gradient
        param.data.add_(torch.randn(param.shape, generator=generator) * 0.1)
    saved_bytes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            saved_bytes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with adapters.active("s"), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        mask = torch.ones_like(IDS)
        adapters.model(input_ids=IDS, attention_mask=mask, use_cache=False).logits.float().square().mean().backward()
    return {name: p.grad.clone() for name, p in adapters.parameters("s").items()}, sum(saved_bytes.values())


@pytest.mark.parametrize("adapter", [Adapter(Config()), PromptAdapter(PromptConfig(tokens=3))], ids=["lora", "prompt"])
@pytest.mark.parametrize("family", ["llama", "opt", "gpt2", "gemma2", "mixtral"])
def test_the_same_gradients(family: str, adapter: Any) -> None:
    plain, much = gradients(family, adapter, False)
    again, little = gradients(family, adapter, True)
    assert plain.keys() == again.keys()
    for name, grad in plain.items():
        assert torch.allclose(again[name], grad, rtol=1e-4, atol=1e-7)
    assert any(grad.abs().max() > 0 for grad in plain.values())
    assert little < 0.7 * much


def test_each_layer_is_computed_once_more_and_only_for_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("llama")
    calls = []
    for number, layer in enumerate(model.model.layers):
        layer.register_forward_pre_hook(lambda m, a, n=number: calls.append(n))
        real = layer.forward
        layer.forward = lambda *a, real=real, n=number, **k: calls.append(f"forward {n}") or real(*a, **k)
    checkpoint_layers(model)
    with torch.no_grad():
        model(input_ids=IDS, use_cache=False)
    assert [c for c in calls if isinstance(c, str)] == ["forward 0", "forward 1"]
    calls.clear()
    model.model.layers[1].mlp.up_proj.weight.requires_grad_(True)  # the first thing to be trained is in layer 1
    model(input_ids=IDS, use_cache=False).logits.sum().backward()
    assert [c for c in calls if isinstance(c, str)] == ["forward 0", "forward 1", "forward 1"]


def test_nothing_is_kept_below_the_first_adapter() -> None:
    """LoRA in layer 1 alone: the backward pass never enters layer 0."""
    from peft import LoraConfig, get_peft_model

    model = build("llama")
    wrapped = get_peft_model(
        model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], layers_to_transform=[1])
    )
    seen: list[Tensor] = []
    model.model.layers[0].register_forward_hook(
        lambda m, a, out: seen.append(out if isinstance(out, Tensor) else out[0])
    )
    out = wrapped.eval()(input_ids=IDS, use_cache=False).logits
    assert out.requires_grad
    assert not seen[0].requires_grad


def test_no_dropout_comes_back() -> None:
    """OPT's layers drop out by a flag of their own, which training mode would set."""
    model = build("opt")
    model.config.dropout = 0.5
    for layer in model.model.decoder.layers:
        layer.dropout = 0.5
    checkpoint_layers(model)
    model.model.decoder.layers[0].fc1.weight.requires_grad_(True)
    one, other = (model(input_ids=IDS, use_cache=False).logits for _ in range(2))
    assert torch.equal(one, other)


def test_an_estimate_is_not_checkpointed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("llama")
    checkpoint_layers(model)
    point = Point(model)
    monkeypatch.setattr(activation_checkpointing, "checkpoint", lambda *a, **k: pytest.fail("checkpointed"))
    with point.shifted(Direction(1), 1e-3):
        model(input_ids=IDS, use_cache=False)


def test_a_model_without_such_layers_is_refused() -> None:
    with pytest.raises(InputError, match="gradient_checkpointing"):
        checkpoint_layers(nn.Linear(2, 2))
