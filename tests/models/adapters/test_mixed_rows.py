"""p's and s's rows in one batch: tried on each model, and where PEFT does not honour it, a forward for each."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.conftest import make_tokenizer
from tests.tiny_models import IDS, PAD, config, cpu_loss
from zofo.config import registry
from zofo.data import Example
from zofo.data.batch import Batch, collate
from zofo.data.tokenization import tokenize_all
from zofo.models.adapters._bank import Bank, member

# (family, LoRA's targets; None: the default) -> whether PEFT honours `adapter_names` there, at every version tried
HONOURED: dict[tuple[str, tuple[str, ...] | None], bool] = {
    ("llama", None): True,
    ("llama", ("q_proj", "down_proj", "embed_tokens")): True,
    ("gpt2", None): True,
    ("opt", None): True,
    ("opt", ("fc1", "fc2")): False,  # they see tokens, not rows
    ("mpt", ("Wqkv",)): False,  # PEFT sets no hooks: every row would get the active adapter
    ("qwen2_moe", ("shared_expert.down_proj",)): False,  # the shared expert sees tokens
    ("mamba", ("in_proj", "x_proj")): True,
}


def build(family: str) -> Any:
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        if family in ("mpt", "qwen2_moe"):
            model = AutoModelForCausalLM.from_config(_config(family))
        else:
            model = AutoModelForCausalLM.from_config(config(family, vocab=400))
    return model.eval().requires_grad_(False)


def _config(family: str) -> Any:
    import transformers as t

    if family == "mpt":
        return t.MptConfig(d_model=32, n_heads=4, n_layers=2, vocab_size=400, max_seq_len=64)
    return t.Qwen2MoeConfig(
        vocab_size=400,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=32,
        num_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )


def wrap(model: Any, targets: tuple[str, ...] | None, names: tuple[str, ...] = ("p", "s")) -> Any:
    module = registry.load("adapters", "lora")
    settings = module.Config(target_modules=None if targets is None else list(targets))
    return module.Adapter(settings).build(model, names, 7, make_tokenizer())


def move(adapters: Any, names: tuple[str, ...] = ("p", "s")) -> None:
    """Each adapter away from its start, and from the others."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name in names:
            for param in adapters.parameters(name).values():
                param.add_(0.3 * torch.randn(param.shape, generator=generator))


def batch(group: str = "") -> Batch:
    texts = ["the film is warm", "one two three four five", "hello, the dog digs"]
    examples = [Example(str(i), t, (" great", " terrible"), (i % 2,), group=group) for i, t in enumerate(texts)]
    return collate(tokenize_all(make_tokenizer(), examples, None, "options", False), PAD)


@contextmanager
def hookless() -> Iterator[None]:
    """PEFT as it would be if it stopped handing `adapter_names` to its layers, for every model."""
    from peft.tuners.lora.model import LoraModel

    @contextmanager
    def nothing(self: Any, *args: Any, **kwargs: Any) -> Iterator[None]:
        kwargs.pop("adapter_names", None)
        yield

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LoraModel, "_enable_peft_forward_hooks", nothing)
        yield


@pytest.mark.parametrize(("family", "targets"), HONOURED)
def test_a_shared_batch_says_what_each_part_says_alone(family: str, targets: tuple[str, ...] | None) -> None:
    """F(p) and F(s) of one call, which may share a forward, are those of two models that each have one adapter."""
    model = build(family)
    adapters = wrap(model, targets)
    assert adapters.mixes is HONOURED[family, targets]
    move(adapters)
    loss, b = cpu_loss(model, "options", adapters), batch()
    together = loss.each([(b, "p"), (b, "s"), (b, "p")])
    for value, name in zip(together, "psp"):
        with adapters.active(name):
            assert value == pytest.approx(loss(b), rel=1e-5)
    assert abs(together[0] - together[1]) > 1e-3, "p is not s"


@pytest.mark.parametrize(("family", "targets"), HONOURED)
def test_a_bank_gives_each_task_its_own_adapter_and_gradient(family: str, targets: tuple[str, ...] | None) -> None:
    tasks, model = ("a", "b"), build(family)
    names = tuple(member("p", task) for task in tasks)
    inner = wrap(model, targets, names)
    move(inner, names)
    bank, b = Bank(inner, ("p",), tasks), batch("b")
    loss = cpu_loss(model, "options", bank)
    with bank.active("p"):
        mixed = _of_both(b, batch("a"))
        value = loss.backward(mixed)
        right = [loss_of_member(inner, batch(task), member("p", task)) for task in ("b", "a")]
    assert value == pytest.approx(sum(right) / 2, rel=1e-5)
    for name in names:
        grads = [p.grad for p in inner.parameters(name).values()]
        assert all(g is not None for g in grads), f"{name} has no gradient"
        assert any(float(g.abs().max()) > 0 for g in grads if g is not None)


def _of_both(one: Batch, other: Batch) -> Batch:
    from zofo.data.batch import concat

    return concat([one, other], PAD)


def loss_of_member(inner: Any, b: Batch, name: str) -> float:
    with inner.active(name):
        return cpu_loss(inner.model, "options")(b)


def test_peft_without_its_hooks_is_found_out(caplog: pytest.LogCaptureFixture) -> None:
    """The penalty F(p) - F(s) would be 0 for ever: one line says why each part has a forward of its own."""
    from importlib.metadata import version

    model = build("llama")
    with hookless(), caplog.at_level(logging.INFO, "zofo"):
        adapters = wrap(model, None)
        assert adapters.mixes is False
        move(adapters)
        loss, b = cpu_loss(model, "options", adapters), batch()
        together = loss.each([(b, "p"), (b, "s")])
        for value, name in zip(together, "ps"):
            with adapters.active(name):
                assert value == pytest.approx(loss(b), rel=1e-6)
        assert abs(together[0] - together[1]) > 1e-3
    (line,) = [r.getMessage() for r in caplog.records]
    assert f"peft {version('peft')}" in line
    assert f"transformers {version('transformers')}" in line


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("broken", [False, True])
def test_it_shows_in_every_dtype(dtype: torch.dtype, broken: bool) -> None:
    model = build("llama").to(dtype)
    if broken:
        with hookless():
            assert wrap(model, None).mixes is False
    else:
        assert wrap(model, None).mixes is True


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounding_of_a_trained_model_is_not_taken_for_it(dtype: torch.dtype, stories_dir: Path) -> None:
    """A false alarm would make every half-precision step slower: rows alone round otherwise than rows together."""
    from transformers import AutoModelForCausalLM

    def model() -> Any:
        return AutoModelForCausalLM.from_pretrained(stories_dir, dtype=dtype).eval().requires_grad_(False)

    assert wrap(model(), None).mixes is True
    with hookless():
        assert wrap(model(), None).mixes is False


@pytest.mark.parametrize(("family", "targets"), HONOURED)
def test_the_trial_leaves_nothing_behind(family: str, targets: tuple[str, ...] | None) -> None:
    """Adapters bit for bit at their start, the active one as before, no hook, no gradient, no random number drawn."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    adapters = wrap(build(family), targets)
    assert torch.equal(torch.get_rng_state(), before)
    p, s = adapters.state("p"), adapters.state("s")
    assert all(torch.equal(p[key], s[key]) for key in p), "p and s start equal"
    zero = [key for key in p if bool((p[key] == 0).all())]
    assert len(zero) == len(p) // 2, "B, or an embedding's A, is 0 at the start"
    assert adapters.current == "p"
    assert all(param.grad is None for param in adapters.parameters("p").values())
    with torch.no_grad():
        plain = build(family)(input_ids=IDS).logits
        torch.testing.assert_close(adapters.model(input_ids=IDS).logits, plain, rtol=1e-5, atol=1e-5)
    assert not any(m._forward_pre_hooks for m in adapters.model.modules() if type(m).__module__.startswith("peft"))


def test_a_forward_that_is_cut_leaves_no_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """PEFT takes its hooks off after a forward, not after one that raised (Ctrl-C, no memory)."""
    model = build("llama")
    adapters = wrap(model, None)
    move(adapters)
    loss, b = cpu_loss(model, "options", adapters), batch()
    right = loss.each([(b, "p"), (b, "s")])

    def cut(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = model.model.layers[1].register_forward_pre_hook(cut)
    with pytest.raises(KeyboardInterrupt):
        loss.each([(b, "p"), (b, "s")])
    handle.remove()
    for name in "ps":
        with adapters.active(name):
            assert loss(b) == pytest.approx(right["ps".index(name)], rel=1e-6)
    assert loss.each([(b, "p"), (b, "s")]) == right


def test_one_adapter_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    model: nn.Module = build("llama")
    calls: list[int] = []
    handle = model.register_forward_pre_hook(lambda *_: calls.append(1))
    wrap(model, ("q_proj",), ("p",))
    handle.remove()
    assert len(calls) == 1, "what is called is looked at once (adapters/_targets.py)"
