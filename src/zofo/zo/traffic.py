"""What a rank sends and receives, counted in exchanges and bytes of payload."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Traffic:
    """Exchanges of this rank, and their payload in bytes."""

    exchanges: int = 0
    sent: int = 0
    received: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.exchanges + other.exchanges, self.sent + other.sent, self.received + other.received)

    def __sub__(self, other: Traffic) -> Traffic:
        return Traffic(self.exchanges - other.exchanges, self.sent - other.sent, self.received - other.received)


@dataclass
class Wire:
    """all: of this process. of_steps: of the training steps that it made, which are `steps`."""

    all: Traffic = field(default_factory=Traffic)
    of_steps: Traffic = field(default_factory=Traffic)
    steps: int = 0

    def to_dict(self) -> dict[str, Any]:
        a_step = {name: value / max(1, self.steps) for name, value in vars(self.of_steps).items()}
        return {**vars(self.all), "a_step": a_step}

    def in_words(self) -> str:
        """Of a training step."""
        own, steps = self.of_steps, max(1, self.steps)
        return (
            f"each sent {own.sent / steps:.0f} bytes a step and received {own.received / steps:.0f}, in "
            f"{own.exchanges / steps:.1f} exchanges"
        )
