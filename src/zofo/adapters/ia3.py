"""IA3: keys, values and the feed-forward's inner activations scaled by trained vectors (Liu et al., arXiv 2205.05638).

| symbol | field | default | place |
|---|---|---|---|
| l_k, l_v, l_ff | target_modules | the family's key, value and feed-forward modules | section 3.3 |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zofo.errors import InputError

if TYPE_CHECKING:
    from zofo.adapters._set import AdapterSet


@dataclass(frozen=True)
class Config:
    target_modules: list[str] | None = field(
        default=None, metadata={"help": "names of the scaled modules; default: those PEFT knows for the model's family"}
    )
    feedforward_modules: list[str] | None = field(
        default=None, metadata={"help": "those of them whose input is scaled instead of their output"}
    )


class Adapter:
    """Vectors of ones at the start: the model is unchanged, p and s are equal, and nothing is drawn."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def build(self, model: Any, names: Sequence[str], seed: int, tokenizer: Any = None) -> AdapterSet:
        """Raises InputError where the family is unknown and no modules are named."""
        from peft import IA3Config

        from zofo.adapters._layers import LayerSet

        targets, forward = self.config.target_modules, self.config.feedforward_modules
        if targets is None:
            targets, forward = self._defaults(model)
        config = IA3Config(task_type="CAUSAL_LM", target_modules=targets, feedforward_modules=forward or [])
        try:
            return LayerSet.build(model, config, names, seed, mixes=False)
        except ValueError as error:
            raise InputError(f"adapter.target_modules: {error}") from error

    @staticmethod
    def _defaults(model: Any) -> tuple[list[str], list[str]]:
        from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as FORWARD
        from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as TARGETS

        family = model.config.model_type
        if family not in TARGETS:
            raise InputError(
                f"adapter.target_modules: no default for {family!r} models; name key, value and feed-forward modules"
            )
        return list(TARGETS[family]), list(FORWARD[family])
