"""The section `parallel`: how the processes of one run share its work. It changes no number that a run records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

BOTH = "parallel.fsdp: goes with parallel.tensor=1 alone; leave one of them at 1"


@dataclass(frozen=True)
class ParallelConfig:
    """Ranks: the processes that a launcher started, as query x data x what holds one model (docs/scale.md)."""

    query: int = field(
        default=1,
        metadata={
            "help": "groups of processes that share an estimate's q directions; the others share batches",
            "ge": 1,
        },
    )
    tensor: int = field(
        default=1,
        metadata={"help": "processes that hold one copy of the model by tensor parallelism", "ge": 1},
    )
    fsdp: int = field(
        default=1,
        metadata={"help": "processes that hold one copy of the model, gathered layer by layer (FSDP2)", "ge": 1},
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

    @property
    def shards(self) -> str:
        """The setting by which processes hold one model together; "" where each has its own."""
        return next((f"parallel.{name}" for name in ("tensor", "fsdp") if getattr(self, name) > 1), "")

    def faults(self, parts: Mapping[str, Any]) -> list[str]:
        """See `zo.estimators._base.Shift.faults`."""
        return [*self._query_faults(parts), *(self._shard_faults(parts) if self.shards else ())]

    def _shard_faults(self, parts: Mapping[str, Any]) -> Iterator[str]:
        """What cannot be exact, or was not tried, where a part of theta is here."""
        what, estimator, rule = self.shards, parts.get("estimator"), parts.get("rule")
        if self.tensor > 1 and self.fsdp > 1:
            yield BOTH
        if parts["model"].quantization:
            yield f"{what}: a quantised model is not sharded; leave model.quantization out, or {what} at 1"
        if parts.get("adapter") is not None:
            yield f"{what}: adapters on a sharded model are not supported; use mezo without one, or leave it at 1"
        if estimator is not None and self.fsdp > 1 and estimator.shift == "layer":
            yield (
                "parallel.fsdp: weights are gathered before a stand-in could shift them; give estimator.shift=copy, "
                "which keeps a second copy of each process's part"
            )
        if rule is not None and getattr(rule, "state", "") == "8bit":
            yield f"{what}: rule.state=8bit has a scale for 256 weights in a row, which shards cut; use bfloat16"
        if parts.get("mask") is not None and hasattr(parts["mask"], "batches"):
            yield f"{what}: the mask sensitivity takes gradients of every weight; use magnitude, random or blocks"

    def unsharded(self, name: str, method: Any) -> str:
        """Why a method, called `name`, cannot run on a sharded model, in one line; "" where it can."""
        if not self.shards or (method.moves != "fo" and not method.adapters_used):
            return ""
        why = "moves every weight by its gradient" if method.moves == "fo" else "trains adapters"
        return f"{self.shards}: method {name} {why}, which is not supported there; use mezo, or leave it at 1"

    def _query_faults(self, parts: Mapping[str, Any]) -> list[str]:
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
