"""Zero-shot: the model as it is, evaluated and not trained. No symbols, no settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from zofo.problem import Metrics, Problem


@dataclass(frozen=True)
class Config:
    """Nothing to set."""


class Method:
    """No updates at all."""

    needs: ClassVar[frozenset[str]] = frozenset()
    streams: ClassVar[tuple[str, ...]] = ()
    adapters_used: ClassVar[tuple[str, ...]] = ()
    candidates: ClassVar[tuple[str, ...]] = ("theta",)
    lower_per_step, upper_per_step = 0, 0

    def __init__(self, config: Config) -> None:
        self.config = config

    def setup(self, problem: Problem) -> None:
        del problem

    def step(self, k: int) -> Metrics:
        raise RuntimeError("zero-shot has no steps")

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        del state
