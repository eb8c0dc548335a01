"""IA3: keys, values and the feed-forward's inner activations scaled by trained vectors (Liu et al., arXiv 2205.05638).

| symbol | field | default | place |
|---|---|---|---|
| l_k, l_v, l_ff | target_modules | the family's key, value and feed-forward modules | section 3.3 |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from zofo.errors import InputError
from zofo.models.adapters._base import Base, Settings, head_problems, paths_of, refuse

if TYPE_CHECKING:
    from zofo.models.adapters._set import AdapterSet


@dataclass(frozen=True)
class Config(Settings):
    target_modules: list[str] | None = field(
        default=None, metadata={"help": "names of the scaled modules; default: keys, values and the feed-forward"}
    )
    feedforward_modules: list[str] | None = field(
        default=None, metadata={"help": "those of them whose input is scaled instead of their output"}
    )

    def problems(self) -> list[str]:
        extra = [name for name in self.feedforward_modules or [] if name not in (self.target_modules or [])]
        faults = [f"feedforward_modules: {extra[0]!r} is not in target_modules; name it there too"] if extra else []
        return faults + head_problems(self.target_modules)


class Adapter(Base):
    """Vectors of ones at the start: the model is unchanged, p and s are equal, and nothing is drawn."""

    fixed_start: ClassVar[str | None] = "ones"

    config: Config

    @classmethod
    def reads(cls, raw: Mapping[str, Any], tensors: Sequence[str]) -> dict[str, Any] | None:
        if raw.get("peft_type") != "IA3":
            return None
        refuse(raw, ("modules_to_save",), "ia3")
        targets, forward = raw.get("target_modules"), raw.get("feedforward_modules") or []
        if not isinstance(forward, list):  # of PEFT's a pattern may stand there: somebody else's, and not run
            raise InputError("feedforward_modules is no list; name the modules there")
        if not isinstance(targets, list) or raw.get("exclude_modules"):
            targets = paths_of(tensors, "ia3_l")
            forward = [path for path in targets if any(f".{path}".endswith(f".{name}") for name in forward)]
        return {"target_modules": sorted(map(str, targets)), "feedforward_modules": sorted(map(str, forward))}

    def build(self, model: Any, names: Sequence[str], seed: int, tokenizer: Any = None) -> AdapterSet:
        """Raises InputError where the family is unknown and no modules are named, or one of them cannot be scaled."""
        from peft import IA3Config

        from zofo.models.adapters._layers import LayerSet
        from zofo.models.adapters._targets import check, has_conv1d, key_value_feedforward

        targets, forward = self.config.target_modules, self.config.feedforward_modules
        if targets is None:
            targets, forward = key_value_feedforward(model)
        check(model, targets)
        config = IA3Config(
            task_type="CAUSAL_LM",
            target_modules=targets,
            feedforward_modules=forward or [],
            fan_in_fan_out=has_conv1d(model, targets),
        )
        return LayerSet.build(model, config, names, seed, mixes=False)
