"""What an adapter's file has: a `Config`, and an `Adapter` that builds the set of named copies on a backbone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from zofo.models.adapters._set import AdapterSet


class Base(ABC):
    """fixed_start: what every copy starts from where nothing is drawn; then two copies cannot start apart."""

    fixed_start: ClassVar[str | None] = None

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def build(self, model: Any, names: Sequence[str], seed: int, tokenizer: Any = None) -> AdapterSet:
        """One copy of the adapter on `model` for each name, all equal. seed: key of what is drawn. tokenizer: the
        model's. Raises InputError where the model has no place for it."""
