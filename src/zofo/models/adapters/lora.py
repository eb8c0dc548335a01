"""LoRA: W x + (alpha / r) B A x with B = 0 at the start (Hu et al., arXiv 2106.09685, section 4.1).

| symbol | field | default | place |
|---|---|---|---|
| r | r | 8 | Bilevel ZOFO B.1.2 |
| alpha | alpha | 16 | Bilevel ZOFO B.1.2 |
| adapted matrices | target_modules | the family's query and value projections | Hu et al. section 4.2 |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zofo.errors import InputError
from zofo.models.adapters._base import Base, Settings, head_problems, paths_of, refuse, whole_number

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from zofo.models.adapters._set import AdapterSet

# What makes of PEFT's LoRA another function than W x + (alpha / r) B A x of one r and alpha
OTHERS = (
    *("use_dora", "use_rslora", "use_qalora", "use_bdlora", "lora_bias", "bias", "modules_to_save", "rank_pattern"),
    *("alpha_pattern", "layer_replication", "trainable_token_indices", "target_parameters", "alora_invocation_tokens"),
    *("arrow_config", "megatron_config"),
)
UNTOUCHED = ("gaussian", "orthogonal", "eva")  # draws of A and B that leave the base model as it is


@dataclass(frozen=True)
class Config(Settings):
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

    @classmethod
    def reads(cls, raw: Mapping[str, Any], tensors: Sequence[str]) -> dict[str, Any] | None:
        if raw.get("peft_type") != "LORA":
            return None
        refuse(raw, OTHERS, "lora")
        start = raw.get("init_lora_weights", True)
        if isinstance(start, str) and start not in UNTOUCHED:
            raise InputError(
                f"init_lora_weights is {start!r}, which changes the base model's own weights; convert it first "
                f"(PEFT's path_initial_model_for_weight_conversion)"
            )
        targets = raw.get("target_modules")
        if not isinstance(targets, list) or raw.get("layers_to_transform") is not None or raw.get("exclude_modules"):
            targets = paths_of(tensors, r"lora_(?:embedding_)?A(?:\.weight)?")
        return {
            "r": whole_number(raw, "r"),
            "alpha": whole_number(raw, "lora_alpha"),
            "target_modules": sorted(map(str, targets)),
        }

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
