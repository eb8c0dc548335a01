"""MeZO: zeroth-order SGD in the memory of inference, on the whole model or on an adapter (Malladi et al., Algorithm 1).

arXiv 2305.17333. With an `adapter` section theta is that adapter's tensors and the backbone stays as it is.

| symbol | field | default | place |
|---|---|---|---|
| eta | lr | 1e-6; LoRA 1e-4, prefix 1e-2 | grids of MeZO's Table 15 and 16 |
| epsilon | estimator.eps | 1e-3; LoRA 1e-2, prefix 1e-1 | the same tables |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from zofo.methods._base import Base

if TYPE_CHECKING:
    from zofo.methods._problem import Metrics, Problem

ON_ADAPTERS = {"lora": {"estimator.eps": 1e-2, "method.lr": 1e-4}, "prefix": {"estimator.eps": 1e-1, "method.lr": 1e-2}}


@dataclass(frozen=True)
class Config:
    lr: float = field(default=1e-6, metadata={"help": "rate of theta", "paper": "MeZO, Algorithm 1", "ge": 0})


def defaults(names: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    """{section.field: (value, reason)} where the defaults depend on what else was chosen (docs/algorithms.md, MeZO)."""
    values = ON_ADAPTERS.get(names.get("adapter", ""), {})
    return {key: (value, f"default: MeZO's own for {names['adapter']}") for key, value in values.items()}


class Method(Base):
    """theta <- theta - lr [F(theta + eps z) - F(theta - eps z)] / (2 eps) z."""

    needs = frozenset({"estimator", "rule"})
    optional = frozenset({"adapter", "mask"})
    moves: ClassVar = "zo"
    first_order = False
    upper_per_step = 1

    def __init__(self, config: Config, with_adapter: bool = False) -> None:
        super().__init__(config)
        if with_adapter:
            self.theta_of, self.adapters_used, self.candidates = "adapter", ("p",), ("p",)

    def setup(self, problem: Problem) -> None:
        assert problem.estimator is not None
        assert problem.rule is not None
        self.problem, self.estimate, self.rule = problem, problem.estimator, problem.rule
        self.data = problem.streams["train"]

    def step(self, k: int) -> Metrics:
        f, theta = self.problem.objective(self.data), self.problem.theta
        lr = self.problem.lr("upper", self.config.lr, self.now(k))
        metrics: Metrics = {"lr_theta": lr}
        with self.problem.update("upper"):
            g = self.estimate(f, theta, k, self.problem.key("z", k))
            self.rule.update_(theta, g, lr, k, f)
            metrics |= {"loss": g.value, "c": g.c}
        return metrics
