"""LoRA: W x + (alpha / r) B A x with B = 0 at the start (Hu et al., arXiv 2106.09685, section 4.1).

| symbol | field | default | place |
|---|---|---|---|
| r | r | 8 | Bilevel ZOFO B.1.2 |
| alpha | alpha | 16 | Bilevel ZOFO B.1.2 |
| adapted matrices | target_modules | the family's query and value projections | Hu et al. section 4.2 |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zofo.models.adapters._base import Base, head_problems

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from zofo.models.adapters._set import AdapterSet


@dataclass(frozen=True)
class Config:
    r: int = field(default=8, metadata={"help": "rank", "paper": "B.1.2", "ge": 1})
    alpha: int = field(default=16, metadata={"help": "the update is scaled by alpha / r", "paper": "B.1.2", "gt": 0})
    target_modules: list[str] | None = field(
        default=None,
        metadata={"help": "names of the adapted modules; default: the model's query and value projections"},
    )

    def problems(self) -> list[str]:
        return head_problems(self.target_modules)


class Adapter(Base):
    """Builds the set: fp32 copies that start equal, drawn from a generator of their own."""

    config: Config

    def build(self, model: PreTrainedModel, names: Sequence[str], seed: int, tokenizer: Any = None) -> AdapterSet:
        """Wrap `model` with one LoRA for each name, all equal. seed: key of A's initialisation.

        Raises InputError where the targets are unknown or not in the model, naming the candidates.
        """
        from peft import LoraConfig

        from zofo.models.adapters._layers import LayerSet
        from zofo.models.adapters._targets import check, has_conv1d, query_value

        targets = self.config.target_modules or query_value(model)
        check(model, targets, embeddings=True)
        config = LoraConfig(
            r=self.config.r,
            lora_alpha=self.config.alpha,
            lora_dropout=0.0,
            target_modules=targets,
            task_type="CAUSAL_LM",
            fan_in_fan_out=has_conv1d(model, targets),
        )
        return LayerSet.build(model, config, names, seed, mixes=True)
