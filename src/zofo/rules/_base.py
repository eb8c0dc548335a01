"""What every rule that moves theta by numbers shares: how the move is rounded in bf16 and fp16."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from zofo.zo.keys import derive

if TYPE_CHECKING:
    from torch import Tensor

    from zofo.zo.point import Point


@dataclass(frozen=True)
class Rounded:
    rounding: Literal["stochastic", "nearest", "split"] = field(
        default="stochastic",
        metadata={
            "help": "an update of a bf16 or fp16 weight: right on average; to nearest, which loses small updates; or "
            "split: 16 more bits a bf16 weight, as exact as fp32"
        },
    )


class Base:
    """State: with rounding `split`, the residual planes of theta's bf16 tensors: int16 in their shapes."""

    dense_bytes: float = 0.0  # a weight's share of the rule's other state

    def __init__(self, config: Any, seed: int) -> None:
        """seed: the run's seed, from which each step's rounding key is derived."""
        self.config, self.seed = config, seed
        self.low: Mapping[str, Tensor] | None = None

    @property
    def bytes_per_weight(self) -> float:
        """Extra bytes a weight."""
        return self.dense_bytes + (2.0 if self.config.rounding == "split" else 0.0)

    def rounding(self, theta: Point, step: int) -> tuple[int | None, Mapping[str, Tensor] | None]:
        """(key of this step's stochastic rounding or None, residual planes or None), as `Point.add_` takes them."""
        if self.config.rounding == "split":
            planes = theta.planes() if self.low is None else self.low
            self.low = {name: plane.to(theta[name].device) for name, plane in planes.items()}  # loaded on the CPU
            return None, self.low
        return derive(self.seed, "round/update", step) if self.config.rounding == "stochastic" else None, None

    def state_dict(self) -> dict[str, Any]:
        """The planes are the rule's own tensors, not copies: save them before the next update."""
        return {} if self.low is None else {"low": dict(self.low)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.low = {name: plane.clone() for name, plane in state["low"].items()} if "low" in state else None
