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

from zofo.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from zofo.adapters._set import AdapterSet


@dataclass(frozen=True)
class Config:
    r: int = field(default=8, metadata={"help": "rank", "paper": "B.1.2", "ge": 1})
    alpha: int = field(default=16, metadata={"help": "the update is scaled by alpha / r", "paper": "B.1.2", "gt": 0})
    target_modules: list[str] | None = field(
        default=None,
        metadata={"help": "names of the adapted modules; default: the model's query and value projections"},
    )


class Adapter:
    """Builds the set: fp32 copies that start equal, drawn from a generator of their own."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def build(self, model: PreTrainedModel, names: Sequence[str], seed: int, tokenizer: Any = None) -> AdapterSet:
        """Wrap `model` with one LoRA for each name, all equal. seed: key of A's initialisation.

        Raises InputError where the targets are unknown or not in the model, naming the candidates.
        """
        from peft import LoraConfig

        from zofo.adapters._layers import LayerSet

        targets = self.config.target_modules or self._default_targets(model)
        self._check(model, targets)
        config = LoraConfig(
            r=self.config.r, lora_alpha=self.config.alpha, lora_dropout=0.0, target_modules=targets,
            task_type="CAUSAL_LM", fan_in_fan_out=_has_conv1d(model, targets),
        )  # fmt: skip
        return LayerSet.build(model, config, names, seed, mixes=True)

    @staticmethod
    def _default_targets(model: PreTrainedModel) -> list[str]:
        from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

        family = model.config.model_type
        if family not in KNOWN:
            raise InputError(
                f"adapter.target_modules: no default for {family!r} models; "
                f"name some of: {', '.join(_candidates(model))}"
            )
        return list(KNOWN[family])

    @staticmethod
    def _check(model: PreTrainedModel, targets: Sequence[str]) -> None:
        known = _candidates(model)
        paths = [name for name, _ in model.named_modules()]
        for target in targets:
            if not any(path == target or path.endswith(f".{target}") for path in paths):
                raise InputError(
                    f"adapter.target_modules: no module named {target!r}{did_you_mean(target, known)}; "
                    f"candidates: {', '.join(known)}"
                )


def _candidates(model: PreTrainedModel) -> list[str]:
    """Last parts of the names of the linear modules, the head's left out."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    linear = {name for name, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D) and m is not head}
    return sorted({name.rsplit(".", 1)[-1] for name in linear})


def _has_conv1d(model: PreTrainedModel, targets: Sequence[str]) -> bool:
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(m, Conv1D) and n.rsplit(".", 1)[-1] in targets for n, m in model.named_modules())
