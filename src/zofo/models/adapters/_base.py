"""What an adapter's file has: a `Config`, and an `Adapter` that builds the set of named copies on a backbone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from zofo.models.adapters._set import AdapterSet


# What families call the matrix that makes logits; any other name of it is found out when the model is there.
HEADS = ("lm_head", "embed_out", "output_layer", "output_projection", "lm_loss")
WHY_NOT_HEAD = "logits are computed where a label is, from the head's own weights, past any adapter of it"


def head_problems(targets: Sequence[str] | None) -> list[str]:
    """For a Config's `problems`: targets, by name or by path, that are a head by their names."""
    heads = [target for target in targets or () if target.rpartition(".")[2] in HEADS]
    return [f"target_modules: {name!r} is the head, which cannot be adapted: {WHY_NOT_HEAD}" for name in heads[:1]]


class Base(ABC):
    """fixed_start: what every copy starts from where nothing is drawn; then two copies cannot start apart."""

    fixed_start: ClassVar[str | None] = None

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def build(self, model: Any, names: Sequence[str], seed: int, tokenizer: Any = None) -> AdapterSet:
        """One copy of the adapter on `model` for each name, all equal. seed: key of what is drawn. tokenizer: the
        model's. Raises InputError where the model has no place for it."""
