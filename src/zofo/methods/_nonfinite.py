"""What an update does to a run whose loss or gradient is NaN or infinite: `train.on_nonfinite`, and its counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

OnNonfinite = Literal["stop", "skip", "halve"]
HALVINGS = 10  # in a row, without one update made between them: a rate of a thousandth did not help


@dataclass
class Refusals:
    """The updates that were refused, by level ("lower", "upper").

    stop: the first one ends the run. skip: it is left out. halve: it is left out, and from then on every rate of its
    level is half of what it was; after HALVINGS in a row it ends the run.
    """

    policy: OnNonfinite = "stop"
    skipped: dict[str, int] = field(default_factory=dict)
    halvings: dict[str, int] = field(default_factory=dict)
    in_a_row: dict[str, int] = field(default_factory=dict)
    last: str = ""  # the last one, in words

    def factor(self, level: str) -> float:
        """What the level's rates are multiplied by: a power of two, so nothing is rounded."""
        return 0.5 ** self.halvings.get(level, 0)

    def made(self, level: str) -> None:
        """An update of this level was made."""
        self.in_a_row.pop(level, None)

    def refused(self, level: str, why: str) -> bool:
        """An update was refused; why: in words. Whether that ends the run."""
        self.last = why
        self.skipped[level] = self.skipped.get(level, 0) + 1
        if self.policy == "halve":
            self.halvings[level] = self.halvings.get(level, 0) + 1
            self.in_a_row[level] = self.in_a_row.get(level, 0) + 1
            if self.in_a_row[level] == HALVINGS:
                self.last = f"{why}, and so were the {HALVINGS - 1} before it, each at half the rate of the last"
        return self.policy == "stop" or self.in_a_row.get(level) == HALVINGS

    @property
    def total(self) -> int:
        return sum(self.skipped.values())

    def state_dict(self) -> dict[str, Any]:
        return {key: dict(getattr(self, key)) for key in ("skipped", "halvings", "in_a_row")}

    def load_state_dict(self, state: Mapping[str, Mapping[str, int]]) -> None:
        self.skipped, self.halvings, self.in_a_row = (
            dict(state.get(key, {})) for key in ("skipped", "halvings", "in_a_row")
        )
