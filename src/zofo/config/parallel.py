"""The section `parallel`: how the processes of one run share its work. It changes no number that a run records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ParallelConfig:
    """Ranks: the processes that a launcher started, as query x data (docs/scale.md)."""

    query: int = field(
        default=1,
        metadata={
            "help": "groups of processes that share an estimate's q directions; the others share batches",
            "ge": 1,
        },
    )
    check_steps: int = field(
        default=50,
        metadata={
            "help": "steps between two checks that all processes hold the same theta and adapters",
            "ge": 1,
        },
    )
    timeout: float = field(
        default=600.0, metadata={"help": "seconds after which a process that the others wait for is missing", "ge": 1}
    )

    def faults(self, parts: Mapping[str, Any]) -> list[str]:
        """See `zo.estimators._base.Shift.faults`."""
        if self.query == 1:
            return []
        estimator = parts.get("estimator")
        if estimator is None:
            return [
                "parallel.query: this method makes no zeroth-order estimate whose directions could be shared; leave 1"
            ]
        if estimator.shift == "inplace":
            return ["parallel.query: estimator.shift=inplace writes theta with each direction; use layer or copy"]
        if self.query > estimator.q and not estimator.anchored:
            return [f"parallel.query: {self.query} is more than the {estimator.q} directions of estimator.q"]
        return []
