"""Prefix tuning: n trained keys and values in every layer (Li and Liang, ACL 2021, arXiv 2101.00190).

| symbol | field | default | place |
|---|---|---|---|
| n | tokens | 5 | Bilevel ZOFO B.1.2 |
| start | text | activations of real tokens, no reparametrisation | MeZO, Appendix E.5 |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from zofo.adapters.prompt import start_ids
from zofo.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from zofo.adapters._soft import SoftSet


@dataclass(frozen=True)
class Config:
    tokens: int = field(default=5, metadata={"help": "virtual tokens", "paper": "B.1.2", "ge": 1})
    text: str = field(
        default="Read the text below with care, then give the right answer to it.",
        metadata={"help": "the keys and values of its first tokens are the start"},
    )


class Adapter:
    """Keys and values that start as the activations of real tokens: the same for p and s, and nothing is drawn."""

    fixed_start: ClassVar = "a text"  # method.apart is refused

    def __init__(self, config: Config) -> None:
        self.config = config

    def build(self, model: Any, names: Sequence[str], seed: int, tokenizer: Any = None) -> SoftSet:
        """seed: unused, the start is a text. tokenizer: the model's.

        Raises InputError where the cache is not made of keys and values of one shape in every layer, or where a
        sliding window is shorter than the prefix.
        """
        from peft import PrefixTuningConfig

        from zofo.adapters._soft import SoftSet

        layers = self._activations(model, tokenizer)
        shapes = {tensor.shape for layer in layers for tensor in layer}
        if len(shapes) != 1:
            raise InputError(
                "adapter.name: prefix needs keys and values of one shape in every layer; use lora or prompt"
            )
        _, heads, n, width = next(iter(shapes))
        start = _pack(layers)
        config = PrefixTuningConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=n, num_layers=len(layers), num_attention_heads=heads,
            token_dim=heads * width, num_transformer_submodules=1,
        )  # fmt: skip

        def attach(
            base: Any, weights: dict[str, Tensor], ids: Tensor, mask: Tensor, positions: Tensor | None
        ) -> dict[str, Any]:
            from zofo.adapters._soft import lengthen

            cache = _cache(base, weights["prefix"], len(layers), heads)
            places = {} if positions is None else {"position_ids": positions + n}
            return {"input_ids": ids, "attention_mask": lengthen(mask, n), "past_key_values": cache, **places}

        return SoftSet(
            model, attach, names, {"prefix": start}, config,
            (lambda w: {"prompt_embeddings": w["prefix"]}, lambda f: {"prefix": f["prompt_embeddings"]}),
            virtual=n,
        )  # fmt: skip

    def _activations(self, model: Any, tokenizer: Any) -> list[tuple[Tensor, Tensor]]:
        """(keys, values) [1, heads, n, width] of each layer, on the text's first n tokens."""
        import torch

        ids = torch.tensor([start_ids(tokenizer, self.config.text, self.config.tokens)], device=model.device)
        with torch.no_grad():
            cache = getattr(model(input_ids=ids, use_cache=True), "past_key_values", None)
        layers = getattr(cache, "layers", None)
        if not layers or any(getattr(layer, "keys", None) is None for layer in layers):
            raise InputError(
                f"adapter.name: prefix needs a model that caches keys and values; {model.config.model_type} does not: "
                f"use lora or prompt"
            )
        least = min(layer.keys.shape[2] for layer in layers)
        if least < self.config.tokens:
            raise InputError(
                f"adapter.tokens: a prefix of {self.config.tokens} tokens does not fit the model's sliding window; "
                f"at most {least}"
            )
        return [(layer.keys, layer.values) for layer in layers]


def _pack(layers: list[tuple[Tensor, Tensor]]) -> Tensor:
    """PEFT's layout, fp32 [n, layers * 2 * heads * width]: for each token layer by layer its key, then its value."""
    import torch

    rows = torch.stack([tensor[0] for layer in layers for tensor in layer])  # [2 layers, heads, n, width]
    return rows.permute(2, 0, 1, 3).flatten(1).float().contiguous()


def _cache(base: Any, prefix: Tensor, layers: int, heads: int) -> Any:
    """A cache holding each row's prefix. prefix: [R, n, layers * 2 * heads * width]."""
    from transformers import DynamicCache

    rows, n, _ = prefix.shape
    parts = prefix.to(base.dtype).view(rows, n, layers * 2, heads, -1).permute(2, 0, 3, 1, 4)
    cache = DynamicCache()
    for layer in range(layers):
        cache.update(parts[2 * layer].contiguous(), parts[2 * layer + 1].contiguous(), layer)
    return cache
