"""Models compute the same from packed rows, and those that cannot are found out and get plain ones."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.family_runs import Directories, adapted, adapter_for, load_family, save_family
from tests.option_rows import pairs, with_options
from tests.tiny_models import PAD, cpu_loss
from zofo.data.batch import collate
from zofo.data.option_tree import option_trees
from zofo.data.tokenization import Encoded
from zofo.eval.likelihood import evaluate
from zofo.models import tree_probe
from zofo.models.tree_probe import probe, share_prompts
from zofo.objectives._loss import Loss

TAKES = ("llama", "llama-untied", "opt", "gpt2", "qwen2", "mixtral", "gemma2", "mistral")


def wide(family_dir: Directories, family: str) -> Any:
    """Its window, where it has one, holds every row here."""
    slides = {"sliding_window": 64} if family in ("mistral", "gemma2") else {}
    return load_family(family_dir(family, **slides))


def make(model: Any, name: str | None, tokenizer: Any, objective: str = "options", **settings: Any) -> tuple[Any, Loss]:
    """(adapters, loss); what turns bool masks into the model's own is on it."""
    model.register_forward_pre_hook(tree_probe._additive, with_kwargs=True)
    adapters = adapted(name, model, tokenizer, **settings) if name else None
    return adapters, cpu_loss(model, objective, adapters)


# -------------------------------------------------------------------------------------------------------- what is equal


def compare(loss: Loss, encoded: list[Encoded], adapters: Any = None) -> None:
    """Losses, and the gradients of the active adapter, from plain and from packed rows."""
    plain, packed = collate(encoded, PAD), collate(option_trees(encoded, None), PAD)
    assert packed.segments is not None
    assert packed.tokens < plain.tokens
    results = []
    for batch in (plain, packed):
        if adapters is None:
            results.append((loss(batch), []))
            continue
        params = adapters.parameters("p").values()
        value = loss.backward(batch)
        results.append((value, [param.grad.clone() for param in params]))
        for param in params:
            param.grad = None
    (one, grads), (two, other) = results
    assert two == pytest.approx(one, rel=1e-5)
    for a, b in zip(grads, other):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4 * float(a.abs().max()))
    assert all(float(a.abs().max()) > 1e-6 for a in grads)


@pytest.mark.parametrize("objective", ["options", "lm"])
@pytest.mark.parametrize("family", TAKES)
def test_losses_and_loras_gradients(family: str, objective: str, family_dir: Directories, tiny_tokenizer: Any) -> None:
    model, encoded = wide(family_dir, family), with_options(tiny_tokenizer)
    adapters, loss = make(model, "lora", tiny_tokenizer, objective)
    compare(loss, encoded, adapters)
    loss.micro_batch_size = 2
    compare(loss, encoded, adapters)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_both_kinds_of_attention(attention: str, family_dir: Directories, tiny_tokenizer: Any) -> None:
    model = load_family(family_dir("llama"))
    model.set_attn_implementation(attention)
    compare(make(model, None, tiny_tokenizer)[1], with_options(tiny_tokenizer))


SOFT = [(f, n) for f in ("llama", "gpt2", "opt", "gemma2") for n in ("prompt", "prefix", "dept") if adapter_for(f, n)]


@pytest.mark.parametrize(("family", "name"), SOFT)
def test_soft_adapters(family: str, name: str, family_dir: Directories, tiny_tokenizer: Any) -> None:
    adapters, loss = make(wide(family_dir, family), name, tiny_tokenizer)
    compare(loss, with_options(tiny_tokenizer), adapters)


@pytest.mark.parametrize("name", ["lora", "prompt", "prefix", "dept"])
def test_mixed_rows_in_one_forward(name: str, family_dir: Directories, tiny_tokenizer: Any) -> None:
    """Packed with p, packed with s, plain with p: each as if alone and plain."""
    _, loss = make(load_family(family_dir("llama")), name, tiny_tokenizer)
    encoded = with_options(tiny_tokenizer)
    packed = option_trees(encoded, None)
    plain, mixed = (
        [(collate(e[:2], PAD), "p"), (collate(e[1:], PAD), "s"), (collate(e[2:4], PAD), None)]
        for e in (encoded, packed)
    )
    apart = [loss.each([part])[0] for part in plain]
    assert loss.each(mixed) == pytest.approx(apart, rel=1e-5)
    loss.micro_batch_size = 2
    assert loss.each(mixed) == pytest.approx(apart, rel=1e-5)


def test_scores_keep_their_order(family_dir: Directories, tiny_tokenizer: Any) -> None:
    _, loss = make(load_family(family_dir("opt")), None, tiny_tokenizer)
    encoded = with_options(tiny_tokenizer)
    plain, packed = (evaluate(loss, e, "accuracy", 2) for e in (encoded, option_trees(encoded, None)))
    assert packed.loss == pytest.approx(plain.loss, rel=1e-5)
    for one, two in zip(plain.predictions, packed.predictions):
        assert (two.id, two.predicted, two.gold) == (one.id, one.predicted, one.gold)
        assert two.scores == pytest.approx(one.scores, rel=1e-5)


# ------------------------------------------------------------------------------------------------------------ the probe


def probed(model: Any, tokenizer: Any, name: str | None = None, encoded: list[Encoded] | None = None) -> str:
    loss = cpu_loss(model, "options", adapted(name, model, tokenizer) if name else None)
    reason = probe(loss.scorer, pairs(encoded or with_options(tokenizer)))
    assert bool(model._forward_pre_hooks) == (not reason)
    assert (loss.meter.forwards, loss.meter.tokens) == (0, 0)
    return reason


@pytest.mark.parametrize("family", TAKES)
def test_models_that_take_packed_rows(family: str, family_dir: Directories, tiny_tokenizer: Any) -> None:
    assert probed(wide(family_dir, family), tiny_tokenizer) == ""


@pytest.mark.parametrize("name", ["lora", "ia3", "prompt", "prefix", "dept"])
def test_adapters_that_take_packed_rows(name: str, family_dir: Directories, tiny_tokenizer: Any) -> None:
    assert probed(load_family(family_dir("llama")), tiny_tokenizer, name) == ""


def other(family: str, **changes: Any) -> Any:
    """A tiny model of a family that is not in the zoo, with weights of 0.1."""
    import transformers as t

    sizes = {"vocab_size": 400, "hidden_size": 32, "initializer_range": 0.1}
    configs = {
        "bloom": lambda: t.BloomConfig(**sizes, n_layer=2, n_head=4),
        "mpt": lambda: t.MptConfig(d_model=32, n_heads=4, n_layers=2, vocab_size=400, max_seq_len=64),
        "gpt_neox": lambda: t.GPTNeoXConfig(**sizes, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64),
        "gpt_neo": lambda: t.GPTNeoConfig(
            **sizes, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]], **changes
        ),
        "falcon": lambda: t.FalconConfig(**sizes, num_hidden_layers=2, num_attention_heads=4, **changes),
        "gemma3": lambda: t.Gemma3TextConfig(
            **sizes,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            intermediate_size=64,
            **changes,
        ),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = t.AutoModelForCausalLM.from_config(configs[family]())
        for param in model.parameters():
            param.data += 0.1 * torch.randn_like(param)
    return model.eval().requires_grad_(False)


OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("gpt_neox", {}),
    ("falcon", {}),
    ("gpt_neo", {"window_size": 64}),
    ("gemma3", {"sliding_window": 64}),
]


@pytest.mark.parametrize(("family", "changes"), OTHERS)
def test_more_models_that_take_packed_rows(family: str, changes: dict[str, Any], tiny_tokenizer: Any) -> None:
    assert probed(other(family, **changes), tiny_tokenizer) == ""


@pytest.mark.parametrize(
    ("family", "changes"), [("bloom", {}), ("mpt", {}), ("falcon", {"alibi": True}), ("gpt_neo", {"window_size": 8})]
)
def test_models_that_do_not_are_found_out(family: str, changes: dict[str, Any], tiny_tokenizer: Any) -> None:
    """Biases by distance in the row (ALiBi), and a window that a packed row leaves."""
    assert probed(other(family, **changes), tiny_tokenizer)


def test_recurrent_models_are_found_out(family_dir: Directories, tiny_tokenizer: Any) -> None:
    assert probed(load_family(family_dir("mamba")), tiny_tokenizer).startswith("MambaForCausalLM ")


@pytest.mark.parametrize("family", ["mistral", "gemma2"])
def test_rows_longer_than_a_window(family: str, family_dir: Directories, tiny_tokenizer: Any) -> None:
    """The probe's reason by the config, and that it is right: the rows' numbers do change."""
    model = load_family(family_dir(family))
    assert "window of 16" in probed(model, tiny_tokenizer)
    _, loss = make(model, None, tiny_tokenizer)
    long = with_options(tiny_tokenizer)[:1]
    plain, packed = (loss(collate(e, PAD)) for e in (long, option_trees(long, None)))
    assert abs(plain - packed) > 1e-4


class Forgetful(torch.nn.Module):
    """A model that forgets one of the arguments."""

    def __init__(self, base: Any, forgets: str) -> None:
        super().__init__()
        self.base, self.forgets = base, forgets

    def get_base_model(self) -> Any:
        return self.base

    def forward(self, **kwargs: Any) -> Any:
        mask = kwargs["attention_mask"]
        if self.forgets == "attention_mask" and mask.ndim == 4:
            kwargs["attention_mask"] = torch.ones_like(mask).tril()
        if self.forgets == "position_ids":
            kwargs.pop("position_ids", None)
        return self.base(**kwargs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("forgets", ["nothing", "attention_mask", "position_ids"])
def test_what_a_model_forgets_shows_in_every_dtype(
    forgets: str, dtype: torch.dtype, family_dir: Directories, tiny_tokenizer: Any
) -> None:
    model = load_family(family_dir("llama")).to(dtype)
    loss = cpu_loss(Forgetful(model, forgets), "options")
    assert bool(probe(loss.scorer, pairs(with_options(tiny_tokenizer)))) == (forgets != "nothing")


def test_pefts_own_soft_prompts_keep_plain_rows(family_dir: Directories, tiny_tokenizer: Any) -> None:
    deployed = adapted("prompt", load_family(family_dir("llama")), tiny_tokenizer).as_peft("p")
    loss = cpu_loss(deployed, "options")
    assert probe(loss.scorer, pairs(with_options(tiny_tokenizer))) == "PEFT's soft prompts drop the positions"


# ------------------------------------------------------------------------------------------------------------- in a run


def test_share_prompts(family_dir: Directories, tiny_tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    encoded = {"train": with_options(tiny_tokenizer), "dev": with_options(tiny_tokenizer)[2:4]}
    for family, words in (("llama", "once for all its options: 3 of 7 examples"), ("mamba", "anew for each")):
        loss = cpu_loss(load_family(family_dir(family)), "options")
        caplog.clear()
        with caplog.at_level(logging.INFO, "zofo"):
            shared = share_prompts(loss.scorer, encoded, None)
        assert words in caplog.text
        assert shared == (
            encoded if family == "mamba" else {name: option_trees(e, None) for name, e in encoded.items()}
        )
    caplog.clear()
    assert share_prompts(loss.scorer, {"dev": encoded["dev"]}, None) == {"dev": encoded["dev"]}
    assert not caplog.records


@pytest.mark.parametrize("adapter", ["lora", "prompt"])
def test_a_run_with_packed_rows(
    adapter: str, tmp_path: Path, write_jsonl: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It trains as with plain rows, to rounding; evaluated from its files it agrees, PEFT's prompt on plain rows."""
    import zofo

    words = ("warm", "funny", "dull", "stale", "clever", "boring")
    rows = []
    for i in range(30):
        choices = [f"the {words[i % 6]} one, {i % 2}", f"no {words[i % 5]} film again", "hello good morning"]
        text = f"film {i} is a {words[i % 6]} and {words[i // 6 % 6]} story"
        rows.append({"text": text, "label": choices[0], "choices": choices})
    file, directory, losses = write_jsonl("rows.jsonl", rows), save_family("llama", tmp_path / "model"), []
    for name, limit in (("packed", None), ("plain", 0)):
        calls: list[int] = []

        def spy(encoded: list[Encoded], _: Any, limit: Any = limit, calls: list[int] = calls) -> list[Encoded]:
            out = option_trees(encoded, limit)
            calls.append(sum(bool(row.branches) for e in out for row in e.rows))
            return out

        monkeypatch.setattr(tree_probe, "option_trees", spy)
        run = zofo.finetune(
            str(directory),
            str(file),
            {"name": "bilevel-zofo", "inner_steps": 2, "lr_theta": 1e-4, "lr_s": 1e-2},
            adapter,
            output_dir=tmp_path / name,
            max_steps=6,
            batch_size=4,
            eval_steps=6,
            save_steps=6,
            overrides=["model.device=cpu"],
        )
        assert bool(sum(calls)) == (name == "packed")
        assert zofo.evaluate(run.path)["loss"] == pytest.approx(run.test["loss"], rel=1e-5)
        losses.append(run.test["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
