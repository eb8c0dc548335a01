"""Tiny random models of families that read their weights in different ways, made from configs, the same every time.

And `cpu_loss`, the one place where the tests make a Loss.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from zofo.data.example import objective_of
from zofo.models.adapters._set import AdapterSet
from zofo.models.label_head import LabelHead
from zofo.models.scorer import Scorer
from zofo.objectives._loss import Loss
from zofo.zo.direction import Direction
from zofo.zo.grad import float32
from zofo.zo.kernels import reference
from zofo.zo.keys import tensor_key

VOCAB, PAD = 100, 2  # PAD: of these models, and of conftest's tokenizers
IDS = torch.randint(0, VOCAB, (3, 9), generator=torch.Generator().manual_seed(0))


def config(family: str, vocab: int = VOCAB, positions: int = 64, window: int = 4) -> Any:
    """2 layers of width 32. window: tokens a sliding layer sees, fewer than IDS has."""
    import transformers as t

    sizes: dict[str, Any] = {"vocab_size": vocab, "hidden_size": 32, "num_hidden_layers": 2}
    heads: dict[str, Any] = {"num_attention_heads": 4, "max_position_embeddings": positions}
    llama: dict[str, Any] = {**sizes, **heads, "num_key_value_heads": 2, "intermediate_size": 64}
    ids: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": PAD}
    if family == "llama":
        return t.LlamaConfig(**llama, **ids, tie_word_embeddings=True)
    if family == "llama-untied":
        return t.LlamaConfig(**llama, **ids, tie_word_embeddings=False, attention_bias=True)
    if family == "opt":  # biases, learned positions, a tied head
        return t.OPTConfig(**sizes, **heads, **ids, ffn_dim=64, word_embed_proj_dim=32, dropout=0.0)
    if family == "gpt2":  # Conv1D: weights stored transposed
        return t.GPT2Config(vocab_size=vocab, n_embd=32, n_layer=2, n_head=4, n_positions=positions, **ids)
    if family == "qwen2":  # biases on queries, keys and values alone
        return t.Qwen2Config(**llama, **ids, tie_word_embeddings=True)
    if family == "mistral":  # every layer slides
        return t.MistralConfig(**llama, **ids, head_dim=8, sliding_window=window)
    if family == "gemma2":  # gains as 1 + weight, softcaps, every other layer slides
        return t.Gemma2Config(**llama, **ids, head_dim=8, query_pre_attn_scalar=8, sliding_window=window)
    if family == "cohere":  # logits times a scale
        return t.CohereConfig(**llama, **ids, logit_scale=0.0625, tie_word_embeddings=True)
    if family == "mamba":  # the weight of conv1d is read outside its own module
        return t.MambaConfig(**sizes, state_size=4)
    if family == "mixtral":  # the experts' weights are stacked
        return t.MixtralConfig(**llama, **ids, num_local_experts=4, num_experts_per_tok=2)
    raise ValueError(family)


FAMILIES = ("llama", "llama-untied", "opt", "gpt2", "qwen2", "mistral", "gemma2", "mamba", "mixtral")


def build(family: str, dtype: torch.dtype = torch.float32) -> Any:
    """In eval mode, without gradients; no bias is 0 and no gain 1, so that a shift of every tensor shows."""
    return copy.deepcopy(_build(family)).to(dtype).eval().requires_grad_(False)


@cache
def _build(family: str) -> Any:
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config(family))
        for name, param in model.named_parameters():
            if param.ndim == 1 and "A_log" not in name:
                param.data += 0.3 * torch.randn_like(param)
    return model


def cpu_loss(model: Any, objective: str, adapters: AdapterSet | None = None, micro: int | None = None) -> Loss:
    """F of a model, or of the adapters that were built on it. micro: the most examples that one call is given."""
    head = LabelHead(model.get_base_model() if hasattr(model, "get_base_model") else model)
    scorer = Scorer(model if adapters is None else adapters.model, head, PAD, torch.device("cpu"))
    return Loss(scorer, objective_of(objective)(), adapters, micro)


@torch.no_grad()
def logits(model: Any, ids: Tensor = IDS) -> Tensor:
    return model(input_ids=ids, use_cache=False).logits


@torch.no_grad()
def replaced(model: nn.Module, z: Direction, scale: float, rounding: str = "stochastic") -> nn.Module:
    """A copy whose weights are round(theta + scale z), by the reference kernel, tied weights once."""
    model = copy.deepcopy(model)
    for name, param in model.named_parameters():
        flat = param.detach().contiguous().view(-1)
        terms, seed = [(z.seed, float32(scale))], z.rounding_seed if rounding == "stochastic" else None
        moved = torch.empty_like(flat)
        reference.add(moved, flat, terms, tensor_key(name), 0, seed)
        param.copy_(moved.view(param.shape))
    return model
