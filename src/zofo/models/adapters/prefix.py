"""Prefix tuning: n trained keys and values in every layer (Li and Liang, ACL 2021, arXiv 2101.00190).

| symbol | field | default | place |
|---|---|---|---|
| n | tokens | 5 | Bilevel ZOFO B.1.2 |
| start | text | activations of real tokens, no reparametrisation | MeZO, Appendix E.5 |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from zofo.errors import InputError
from zofo.models.adapters._base import Base, Settings, whole_number
from zofo.models.adapters.prompt import start_ids

if TYPE_CHECKING:
    from torch import Tensor

    from zofo.models.adapters._soft import SoftSet


@dataclass(frozen=True)
class Config(Settings):
    tokens: int = field(default=5, metadata={"help": "virtual tokens", "paper": "B.1.2", "ge": 1})
    text: str = field(
        default="Read the text below with care, then give the right answer to it.",
        metadata={"help": "the keys and values of its first tokens are the start"},
    )


class Adapter(Base):
    """Keys and values that start as the activations of real tokens: the same for p and s, and nothing is drawn."""

    fixed_start: ClassVar[str | None] = "a text"

    config: Config

    @classmethod
    def reads(cls, raw: Mapping[str, Any], tensors: Sequence[str]) -> dict[str, Any] | None:
        if raw.get("peft_type") not in ("PREFIX_TUNING",):
            return None
        return {"tokens": whole_number(raw, "num_virtual_tokens")}

    def build(self, model: Any, names: Sequence[str], seed: int, tokenizer: Any = None) -> SoftSet:
        """seed: unused, the start is a text. tokenizer: the model's.

        Raises InputError where the cache is not made of keys and values of one shape in every layer, or where a
        sliding window is shorter than the prefix.
        """
        layers = self._activations(model, tokenizer)
        if len({tensor.shape for layer in layers for tensor in layer}) != 1:
            raise InputError(
                "adapter.name: prefix needs keys and values of one shape in every layer; use lora or prompt"
            )
        return soft_set(model, names, _pack(layers), len(layers), layers[0][0].shape[1])

    def _activations(self, model: Any, tokenizer: Any) -> list[tuple[Tensor, Tensor]]:
        """(keys, values) [1, heads, n, width] of each layer, on the text's first n tokens."""
        import torch

        from zofo.models._transformers import keys_and_values
        from zofo.models.versions import named

        ids = torch.tensor([start_ids(tokenizer, self.config.text, self.config.tokens)], device=model.device)
        layers = keys_and_values(model, ids)
        if layers is None:
            raise InputError(
                f"adapter.name: prefix needs a model that caches keys and values; {model.config.model_type} does not "
                f"with {named('transformers')}: use lora or prompt"
            )
        least = min(keys.shape[2] for keys, _ in layers)
        if least < self.config.tokens:
            raise InputError(
                f"adapter.tokens: a prefix of {self.config.tokens} tokens does not fit the model's sliding window; "
                f"at most {least}"
            )
        return layers


def soft_set(model: Any, names: Sequence[str], start: Tensor, layers: int, heads: int) -> SoftSet:
    """A set in which every name starts from these keys and values, fp32 [n, layers * 2 * heads * width]."""
    from peft import PrefixTuningConfig

    from zofo.models.adapters._front import PrefixFront
    from zofo.models.adapters._soft import SoftSet

    n, width = start.shape[0], start.shape[1] // (2 * layers * heads)
    config = PrefixTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=n,
        num_layers=layers,
        num_attention_heads=heads,
        token_dim=heads * width,
        num_transformer_submodules=1,
    )
    encode = (lambda w: {"prompt_embeddings": w["prefix"]}, lambda f: {"prefix": f["prompt_embeddings"]})
    return SoftSet(model, PrefixFront(layers, heads), names, {"prefix": start}, config, encode, virtual=n)


def _pack(layers: list[tuple[Tensor, Tensor]]) -> Tensor:
    """PEFT's layout, fp32 [n, layers * 2 * heads * width]: for each token layer by layer its key, then its value."""
    import torch

    rows = torch.stack([tensor[0] for layer in layers for tensor in layer])  # [2 layers, heads, n, width]
    return rows.permute(2, 0, 1, 3).flatten(1).float().contiguous()
