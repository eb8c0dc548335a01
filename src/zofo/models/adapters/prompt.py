"""Prompt tuning: n trained embeddings before the text (Lester et al., EMNLP 2021, arXiv 2104.08691).

| symbol | field | default | place |
|---|---|---|---|
| n | tokens | 10 | Bilevel ZOFO B.1.2 |
| start | text | words of the instruction | a random start did not train on a 135M model |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from zofo.models.adapters._base import Base, Settings, whole_number

if TYPE_CHECKING:
    from torch import Tensor

    from zofo.models.adapters._soft import SoftSet


@dataclass(frozen=True)
class Config(Settings):
    tokens: int = field(default=10, metadata={"help": "virtual tokens", "paper": "B.1.2", "ge": 1})
    text: str = field(
        default="Read the text below with care, then give the right answer to it.",
        metadata={
            "help": "the embeddings of its tokens are the start, repeated or cut to the number of virtual tokens"
        },
    )


class Adapter(Base):
    """Embeddings that start as those of real tokens: the same for p and s, and nothing is drawn."""

    fixed_start: ClassVar[str | None] = "a text"

    config: Config

    @classmethod
    def reads(cls, raw: Mapping[str, Any], tensors: Sequence[str]) -> dict[str, Any] | None:
        """Of p-tuning, too: what its encoder made in training is one table of embeddings in the file."""
        if raw.get("peft_type") not in ("PROMPT_TUNING", "P_TUNING"):
            return None
        return {"tokens": whole_number(raw, "num_virtual_tokens")}

    def build(self, model: Any, names: Sequence[str], seed: int, tokenizer: Any = None) -> SoftSet:
        """seed: unused, the start is a text. tokenizer: the model's."""
        return soft_set(model, names, real_embeddings(model, tokenizer, self.config.text, self.config.tokens))


def soft_set(model: Any, names: Sequence[str], start: Tensor) -> SoftSet:
    """A set in which every name starts from these embeddings, fp32 [n, D]."""
    from peft import PromptTuningConfig

    from zofo.models.adapters._front import PromptFront
    from zofo.models.adapters._soft import SoftSet

    n, width = start.shape
    # PEFT takes token_dim for hidden_size (OPT-350M: not so) and needs heads to exist (Mamba)
    config = PromptTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=n,
        token_dim=width,
        num_transformer_submodules=1,
        num_layers=getattr(model.config, "num_hidden_layers", 1),
        num_attention_heads=getattr(model.config, "num_attention_heads", 1),
    )
    encode = (lambda w: {"prompt_embeddings": w["prompt"]}, lambda f: {"prompt": f["prompt_embeddings"]})
    return SoftSet(model, PromptFront(), names, {"prompt": start}, config, encode, virtual=n)


def start_ids(tokenizer: Any, text: str, n: int) -> list[int]:
    """n token ids of `text`, without special tokens, repeated or cut."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return (ids * (n // len(ids) + 1))[:n]


def real_embeddings(model: Any, tokenizer: Any, text: str, n: int) -> Tensor:
    """fp32 [n, D], the input embeddings of the text's tokens."""
    import torch

    with torch.no_grad():
        ids = torch.tensor(start_ids(tokenizer, text, n), device=model.device)
        return model.get_input_embeddings()(ids).float()
