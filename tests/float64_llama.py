"""The independent side of the equations: a Llama with LoRA and its losses in float64, row by row, in plain torch.

Nothing here comes from zofo but the rows of the examples: no padding, no hooks, no PEFT, no transformers' forward.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zofo.data.tokenization import Encoded

Weights = Mapping[str, Tensor]


class Wide:
    """F(theta, adapter; examples) in float64, for a Llama config with a tied head."""

    def __init__(self, config: Any, scaling: float, objective: str) -> None:
        self.config, self.scaling, self.objective = config, scaling, objective

    def loss(self, theta: Weights, adapter: Weights | None, examples: Sequence[Encoded]) -> Tensor:
        """theta by checkpoint names, adapter by PEFT's names (lora_A, lora_B)."""
        weights = merged(theta, adapter, self.scaling)
        scores = [self._options(weights, e) for e in examples]  # per example: the log-probabilities of each option
        if self.objective == "lm":
            gold = [torch.cat([options[g] for g in e.gold]) for e, options in zip(examples, scores)]
            return -torch.cat(gold).mean()
        each = []
        for e, options in zip(examples, scores):
            means = torch.stack([tokens.mean() for tokens in options])
            each.append(means.logsumexp(0) - means[list(e.gold)].logsumexp(0))
        return torch.stack(each).mean()

    def _options(self, weights: Weights, e: Encoded) -> list[Tensor]:
        by_option: list[list[Tensor]] = [[] for _ in range(e.n_options)]
        for row in e.rows:
            logp = torch.log_softmax(self._logits(weights, row.ids), -1)
            for position, token, option in row.labels:
                by_option[option].append(logp[position, token])
        return [torch.stack(tokens) for tokens in by_option]

    def _logits(self, w: Weights, ids: Sequence[int]) -> Tensor:
        c, n = self.config, len(ids)
        heads, kv, eps = c.num_attention_heads, c.num_key_value_heads, c.rms_norm_eps
        size = c.hidden_size // heads
        cos, sin = rotary(n, size)
        x = w["model.embed_tokens.weight"][list(ids)]
        for i in range(c.num_hidden_layers):
            at = f"model.layers.{i}."
            h = rms(x, w[at + "input_layernorm.weight"], eps)
            q, k, v = (h @ w[f"{at}self_attn.{name}_proj.weight"].T for name in "qkv")
            q, k, v = (y.view(n, -1, size).transpose(0, 1) for y in (q, k, v))
            q, k = (y * cos + turned(y) * sin for y in (q, k))
            k, v = (y.repeat_interleave(heads // kv, 0) for y in (k, v))
            a = (q @ k.transpose(1, 2) / math.sqrt(size)).masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf)
            x = x + (a.softmax(-1) @ v).transpose(0, 1).reshape(n, -1) @ w[at + "self_attn.o_proj.weight"].T
            h = rms(x, w[at + "post_attention_layernorm.weight"], eps)
            gate, up = (h @ w[f"{at}mlp.{name}_proj.weight"].T for name in ("gate", "up"))
            x = x + (gate * gate.sigmoid() * up) @ w[at + "mlp.down_proj.weight"].T
        return rms(x, w["model.norm.weight"], eps) @ w["model.embed_tokens.weight"].T


def rms(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    return gain * x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def rotary(n: int, size: int, base: float = 10000.0) -> tuple[Tensor, Tensor]:
    frequency = base ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angle = torch.outer(torch.arange(n, dtype=torch.float64), frequency).repeat(1, 2)
    return angle.cos(), angle.sin()


def turned(x: Tensor) -> Tensor:
    one, two = x.chunk(2, -1)
    return torch.cat([-two, one], -1)


def merged(theta: Weights, adapter: Weights | None, scaling: float) -> dict[str, Tensor]:
    """W + scaling B A for each adapted matrix."""
    weights = dict(theta)
    for name, a in (adapter or {}).items():
        if ".lora_A." in name:
            target = name.removeprefix("base_model.model.").replace("lora_A.", "")
            weights[target] = weights[target] + scaling * (adapter or {})[name.replace("lora_A", "lora_B")] @ a
    return weights


def widen(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """float64 copies."""
    return {name: t.detach().double().clone() for name, t in tensors.items()}


def gradient(loss: Tensor, at: Sequence[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(loss, at))
