"""Families beyond the usual ones: packed rows only where they are the same to the gradient; labels as in all logits."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.model_zoo import RECURRENT, families, tiny
from tests.option_rows import pairs, with_options
from tests.tiny_models import PAD, cpu_loss
from zofo import InputError
from zofo.data.batch import collate
from zofo.data.option_tree import option_trees
from zofo.models import label_head, tree_probe
from zofo.models.adapters import ia3, lora
from zofo.models.adapters._targets import check
from zofo.models.tree_probe import probe

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SCALED = ("cohere", "cohere2", "gemma2", "gemma3_text", "granite", "granitemoe", "vaultgemma", "nanochat", "mamba")
NOT_CAUSAL = {  # without is_decoder they read what comes after: no language models, and no order that could be kept
    *("bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert"),
    *("rembert", "roberta", "roberta-prelayernorm", "roformer", "xlm-roberta", "xlm-roberta-xl", "xlm", "xlnet"),
}


def build(family: str, init: float = 0.2) -> Any:
    model = tiny(family, vocab=400, init=init)
    if model is None:
        pytest.skip(f"{family}: not to be made tiny with this version of transformers")
    return model


def by_hand(model: Any, tokenizer: Any, dtype: torch.dtype) -> tuple[float, float]:
    """(largest difference of a label's log-probability, largest relative one of a weight's gradient), packed to plain.

    From the model's own logits of whole rows, in this dtype, without the label head.
    """
    model = copy.deepcopy(model).to(dtype)
    model.register_forward_pre_hook(tree_probe._additive, with_kwargs=True)
    params = [p.requires_grad_() for p in model.parameters()]
    results: list[tuple[Tensor, Any]] = []
    encoded = with_options(tokenizer)
    for batch in (collate(encoded, PAD), collate(option_trees(encoded, None), PAD)):
        logp = torch.log_softmax(model(**batch.inputs(), use_cache=False).logits, -1).flatten(0, 1)
        logp = logp[batch.positions, batch.labels]
        factors = torch.linspace(1, 2, len(logp), dtype=logp.dtype)
        results.append((logp.detach(), torch.autograd.grad((logp * factors).sum(), params, materialize_grads=True)))
    (plain, right), (packed, ours) = results
    largest = max(float(g.norm()) for g in right)
    seen = largest * (1e-6 if dtype == torch.float32 else 1e-12)  # a key's bias has a gradient of rounding alone
    relative = [float((a - b).norm() / b.norm()) for a, b in zip(ours, right) if b.norm() > seen]
    return float((packed - plain).abs().max()), max(relative)


def equal(model: Any, tokenizer: Any) -> bool:
    """Whether packed rows are plain ones, in float64 (of which some norms go through float32); in float32 where a
    family's experts know no float64."""
    for dtype, least, part in ((torch.float64, 1e-5, 1e-5), (torch.float32, 2e-5, 1e-3)):
        try:
            value, gradient = by_hand(model, tokenizer, dtype)
        except Exception:
            continue
        return value < least and gradient < part
    return False


def verdicts(model: Any, tokenizer: Any) -> list[bool]:
    """Whether the probe packs, in each dtype."""
    return [
        not probe(cpu_loss(copy.deepcopy(model).to(dtype), "options").scorer, pairs(with_options(tokenizer)))
        for dtype in DTYPES
    ]


# Each family with one size of its weights in every run of the suite; both with `make test-slow`
SIZES = [
    pytest.param(family, init, marks=() if (i + j) % 2 == 0 else pytest.mark.slow)
    for i, family in enumerate(RECURRENT)
    for j, init in enumerate([0.2, 0.02])
]


@pytest.mark.parametrize(("family", "init"), SIZES)
def test_no_state_between_tokens_is_packed_in_any_dtype(family: str, init: float, tiny_tokenizer: Any) -> None:
    model = build(family, init)
    assert verdicts(model, tiny_tokenizer) == [False] * 3


def test_a_convolution_too_weak_to_show_in_the_scores(tiny_tokenizer: Any) -> None:
    """LFM2 with small weights: log-probabilities agree to what fp32 resolves, and a gradient is off by half."""
    model = build("lfm2", 0.004)
    value, gradient = by_hand(model, tiny_tokenizer, torch.float64)
    assert value < 1e-5
    assert gradient > 0.1
    assert verdicts(model, tiny_tokenizer) == [False] * 3


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt_oss", "mixtral", "cohere2"])
def test_attention_alone_is_packed(family: str, tiny_tokenizer: Any) -> None:
    model = build(family)
    assert equal(model, tiny_tokenizer)
    assert verdicts(model, tiny_tokenizer) == [True] * 3


@pytest.mark.slow
@pytest.mark.parametrize("init", [0.2, 0.02])
@pytest.mark.parametrize("family", [name for name in families() if name not in NOT_CAUSAL])
def test_what_is_packed_is_equal_in_every_family(family: str, init: float, tiny_tokenizer: Any) -> None:
    model = build(family, init)
    if any(verdicts(model, tiny_tokenizer)):
        assert equal(model, tiny_tokenizer)


# ------------------------------------------------------------------------------------------------------------- the head


def check_labels(family: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the model's own logits of whole rows; then in chunks, which pass what stands behind the head, if any."""
    model = build(family)
    scorer, batch = cpu_loss(model, "options").scorer, collate(with_options(tokenizer), PAD)
    with torch.no_grad():
        logits = model(**batch.inputs(), use_cache=False).logits.float()
        right = torch.log_softmax(logits, -1).flatten(0, 1)[batch.positions, batch.labels]
        torch.testing.assert_close(scorer.logprobs(batch), right, rtol=1e-4, atol=1e-4)
        monkeypatch.setattr(label_head, "CHUNK", 64)
        torch.testing.assert_close(scorer.logprobs(batch), right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", SCALED)
def test_labels_of_families_that_change_logits(
    family: str, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_labels(family, tiny_tokenizer, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("family", families())
def test_labels_of_every_family(family: str, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    check_labels(family, tiny_tokenizer, monkeypatch)


def test_a_softcap_is_seen_where_logits_are_too_small_for_it(
    tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token whose hidden state is 0 has logits of 0, capped or not: that says nothing of the others."""
    model = build("gemma2", 0.2)
    batch = collate(with_options(tiny_tokenizer), PAD)
    model.model.embed_tokens.weight[int(batch.input_ids[0, 0])] = 0
    scorer = cpu_loss(model, "options").scorer
    whole = scorer.logprobs(batch)
    monkeypatch.setattr(label_head, "CHUNK", 64)
    torch.testing.assert_close(scorer.logprobs(batch), whole, rtol=1e-5, atol=1e-5)
    assert scorer.head._last is False


def test_logits_made_past_the_head_are_refused(tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else those of the first row would be taken for all; and a head that is called twice gets rows cut already."""
    model = build("llama")
    batch, scorer = collate(with_options(tiny_tokenizer), PAD), cpu_loss(model, "options").scorer

    def past(use_cache: bool = False, **inputs: Any) -> Any:
        return SimpleNamespace(logits=model.model(**inputs)[0] @ model.lm_head.weight.T)

    def twice(use_cache: bool = False, **inputs: Any) -> Any:
        hidden = model.model(**inputs)[0]
        model.lm_head(hidden)
        return SimpleNamespace(logits=model.lm_head(hidden))

    for forward, calls in ((past, 0), (twice, 2)):
        monkeypatch.setattr(model, "forward", forward)
        with pytest.raises(
            InputError, match=f"^model.name: LlamaForCausalLM calls its output embeddings {calls} times"
        ):
            scorer.logprobs(batch)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gpt2", "opt", "rwkv", "mamba", "modernbert-decoder"])
def test_the_head_of_any_family_is_no_target(family: str, tiny_tokenizer: Any) -> None:
    """By the last part of its name, by its path, and with an adapter that scales."""
    model = build(family)
    head = model.get_output_embeddings()
    path = next(name for name, module in model.named_modules() if module is head)
    for target in {path, path.rpartition(".")[2]}:
        with pytest.raises(InputError, match=r"is the head, which cannot be adapted"):
            check(model, [target])
        with pytest.raises(InputError, match=r"is the head, which cannot be adapted"):
            lora.Adapter(lora.Config(target_modules=["q_proj", target][-1:])).build(model, ("p", "s"), 0, None)


@pytest.mark.parametrize("config", [lora.Config, ia3.Config])
@pytest.mark.parametrize("target", ["lm_head", "embed_out", "model.lm_head"])
def test_a_head_by_its_name_is_found_without_a_model(config: Any, target: str) -> None:
    (line,) = config(target_modules=["q_proj", target]).problems()
    assert line.startswith(f"target_modules: {target!r} is the head")
    assert config(target_modules=["q_proj", "head_proj"]).problems() == []
