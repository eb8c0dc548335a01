"""MeZO: zeroth-order SGD on the whole model in the memory of inference (Malladi et al., arXiv 2305.17333, Algorithm 1).

| symbol | field | default | place |
|---|---|---|---|
| eta | lr | 1e-6 | Table 15 of the MeZO paper |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from zofo.problem import Metrics, Problem


@dataclass(frozen=True)
class Config:
    lr: float = field(default=1e-6, metadata={"help": "rate of theta", "paper": "MeZO, Algorithm 1", "ge": 0})


class Method:
    """theta <- theta - lr [F(theta + eps z) - F(theta - eps z)] / (2 eps) z."""

    needs: ClassVar[frozenset[str]] = frozenset({"estimator", "rule"})
    streams: ClassVar[tuple[str, ...]] = ("train",)
    adapters_used: ClassVar[tuple[str, ...]] = ()
    candidates: ClassVar[tuple[str, ...]] = ("theta",)
    lower_per_step, upper_per_step = 0, 1

    def __init__(self, config: Config) -> None:
        self.config = config

    def setup(self, problem: Problem) -> None:
        assert problem.estimator is not None
        assert problem.rule is not None
        self.problem, self.estimate, self.rule = problem, problem.estimator, problem.rule
        self.data = problem.streams["train"]

    def step(self, k: int) -> Metrics:
        batch, theta, lr = next(self.data), self.problem.theta, self.problem.rate(self.config.lr, k)
        metrics: Metrics = {"lr_theta": lr}
        with self.problem.update():

            def f() -> float:
                return self.problem.loss(batch)

            g = self.estimate(f, theta, k, self.problem.key("z", k))
            self.rule.update_(theta, g, lr, k, f)
            metrics |= {"loss": g.value, "c": g.terms[0][0]}
        return metrics

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        del state
